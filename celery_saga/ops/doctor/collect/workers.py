"""Gathers the facts about workers by remote control commands."""

from __future__ import annotations

from collections.abc import Mapping

from celery import Celery
from kombu import Connection

from celery_saga.messaging.inspection import Reply, queues_of, send_command, tasks_of
from celery_saga.messaging.outcome import START
from celery_saga.ops.doctor.facts import Offset, Plugin, Worker
from celery_saga.worker.remote_control import COMMAND


def gather_workers(app: Celery, connection: Connection, timeout: float) -> tuple[Worker, ...]:
    """The workers that reply within ``timeout`` seconds, each by itself.

    Celery's own inspection keeps one reply for each name of a worker, so that one of two workers
    with the same name is missing.
    """
    registered = send_command(app, connection, "registered", timeout, builtins=True)
    if not registered:
        return ()
    nodes = [reply.node for reply in registered]
    queues = _by_node(send_command(app, connection, "active_queues", timeout, nodes))
    # A worker without the plugin would log an error about an unknown command.
    plugged = [reply.node for reply in registered if START in tasks_of(reply.value)]
    own = _by_node(send_command(app, connection, COMMAND, timeout, plugged) if plugged else [])
    found = []
    for reply in registered:
        consumed = _next(queues, reply.node)
        if consumed is not None:  # else it has ended meanwhile, or takes its time
            tasks, plugin = tasks_of(reply.value), _plugin(_next(own, reply.node))
            found.append(
                Worker(reply.node, tasks, queues_of(consumed.value), START in tasks, plugin)
            )
    return tuple(found)


def _by_node(replies: list[Reply]) -> dict[str, list[Reply]]:
    found: dict[str, list[Reply]] = {}
    for reply in replies:
        found.setdefault(reply.node, []).append(reply)
    return found


def _next(replies: dict[str, list[Reply]], node: str) -> Reply | None:
    """A reply of that name; of two workers with one name, the one that is left."""
    left = replies.get(node)
    return left.pop(0) if left else None


def _plugin(reply: Reply | None) -> Plugin | None:
    if reply is None or not isinstance(reply.value, Mapping) or "instance" not in reply.value:
        return None
    value = reply.value
    models = value.get("models")
    return Plugin(
        instance=str(value["instance"]),
        heartbeat=bool(value.get("heartbeat")),
        pool=str(value.get("pool")),
        versions=dict(value.get("versions", {})),
        settings=dict(value.get("settings", {})),
        clock=Offset.measured(float(value["clock"]), reply.sent_at, reply.replied_at),
        models=None if models is None else frozenset(models),
    )
