"""What workers answer when they are asked over the broker."""

from __future__ import annotations

from collections.abc import Mapping

from celery import Celery
from kombu import Connection

from celery_saga.messaging.inspection import Answer, ask, queues_of, tasks_of
from celery_saga.messaging.outcome import START
from celery_saga.ops.doctor.facts import Offset, Plugin, Worker
from celery_saga.worker.remote_control import COMMAND


def gather_workers(app: Celery, connection: Connection, timeout: float) -> tuple[Worker, ...]:
    """The workers that answer within ``timeout`` seconds, each by itself.

    Celery's own inspection puts answers together by the workers' names, and so makes one of two
    that have the same.
    """
    registered = ask(app, connection, "registered", timeout, builtins=True)
    if not registered:
        return ()
    nodes = [answer.node for answer in registered]
    queues = _by_node(ask(app, connection, "active_queues", timeout, nodes))
    # A worker without the plugin would log an error about a question that it does not know.
    plugged = [answer.node for answer in registered if START in tasks_of(answer.said)]
    own = _by_node(ask(app, connection, COMMAND, timeout, plugged) if plugged else [])
    found = []
    for answer in registered:
        consumed = _next(queues, answer.node)
        if consumed is not None:  # else it has ended meanwhile, or takes its time
            tasks, told = tasks_of(answer.said), _plugin(_next(own, answer.node))
            found.append(Worker(answer.node, tasks, queues_of(consumed.said), START in tasks, told))
    return tuple(found)


def _by_node(answers: list[Answer]) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        found.setdefault(answer.node, []).append(answer)
    return found


def _next(answers: dict[str, list[Answer]], node: str) -> Answer | None:
    """An answer of that name; of two workers with one name, the one that is left."""
    left = answers.get(node)
    return left.pop(0) if left else None


def _plugin(answer: Answer | None) -> Plugin | None:
    if answer is None or not isinstance(answer.said, Mapping) or "instance" not in answer.said:
        return None
    said = answer.said
    return Plugin(
        instance=str(said["instance"]),
        heartbeat=bool(said.get("heartbeat")),
        pool=str(said.get("pool")),
        versions=dict(said.get("versions", {})),
        settings=dict(said.get("settings", {})),
        clock=Offset.measured(float(said["clock"]), answer.asked, answer.answered),
    )
