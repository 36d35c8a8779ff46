"""What workers answer when they are asked over the broker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu import Connection

from celery_saga.announce import START
from celery_saga.answers import QUESTION
from celery_saga.doctor.facts import Offset, Plugin, Worker


@dataclass(frozen=True)
class _Answer:
    node: str
    said: Any
    asked: float
    answered: float


def gather_workers(app: Celery, connection: Connection, timeout: float) -> tuple[Worker, ...]:
    """The workers that answer within ``timeout`` seconds, each by itself.

    Celery's own inspection puts answers together by the workers' names, and so makes one of two
    that have the same.
    """
    registered = _ask(app, connection, "registered", timeout, builtins=True)
    if not registered:
        return ()
    nodes = [answer.node for answer in registered]
    queues = _by_node(_ask(app, connection, "active_queues", timeout, nodes))
    # A worker without the plugin would log an error about a question that it does not know.
    plugged = [answer.node for answer in registered if START in _tasks(answer.said)]
    own = _by_node(_ask(app, connection, QUESTION, timeout, plugged) if plugged else [])
    found = []
    for answer in registered:
        consumed = _next(queues, answer.node)
        if consumed is not None:  # else it has ended meanwhile, or takes its time
            tasks, told = _tasks(answer.said), _plugin(_next(own, answer.node))
            found.append(Worker(answer.node, tasks, _queues(consumed.said), START in tasks, told))
    return tuple(found)


def _ask(
    app: Celery,
    connection: Connection,
    question: str,
    timeout: float,
    nodes: list[str] | None = None,
    **arguments: Any,
) -> list[_Answer]:
    """Every answer with the moments before and after it; of ``nodes``, or of whoever is there.

    Once all of ``nodes`` have answered, nobody is waited for; a name stands there for each worker.
    """
    answers: list[_Answer] = []
    asked = time.time()

    def take(reply: Mapping[str, Any]) -> None:
        answers.extend(_Answer(node, said, asked, time.time()) for node, said in reply.items())

    app.control.broadcast(
        question,
        arguments=arguments,
        destination=nodes,
        connection=connection,
        reply=True,
        timeout=timeout,
        limit=len(nodes) if nodes else None,
        callback=take,
    )
    return answers


def _by_node(answers: list[_Answer]) -> dict[str, list[_Answer]]:
    found: dict[str, list[_Answer]] = {}
    for answer in answers:
        found.setdefault(answer.node, []).append(answer)
    return found


def _next(answers: dict[str, list[_Answer]], node: str) -> _Answer | None:
    """An answer of that name; of two workers with one name, the one that is left."""
    left = answers.get(node)
    return left.pop(0) if left else None


def _tasks(said: Any) -> frozenset[str]:
    """Names of tasks; Celery puts some options behind a name."""
    names = said if isinstance(said, list) else []
    return frozenset(str(name).partition(" [")[0] for name in names)


def _queues(said: Any) -> frozenset[str]:
    found = said if isinstance(said, list) else []
    return frozenset(str(queue.get("name")) for queue in found)


def _plugin(answer: _Answer | None) -> Plugin | None:
    if answer is None or not isinstance(answer.said, Mapping) or "instance" not in answer.said:
        return None
    said = answer.said
    return Plugin(
        instance=str(said["instance"]),
        beats=bool(said.get("beats")),
        pool=str(said.get("pool")),
        versions=dict(said.get("versions", {})),
        settings=dict(said.get("settings", {})),
        clock=Offset.measured(float(said["clock"]), answer.asked, answer.answered),
    )
