"""What is asked of the broker and of the workers at it, within a bounded time."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from celery_saga.core.decide.transitions import call_of
from celery_saga.core.events import MessageState
from celery_saga.core.execution import SagaExecution, StepRef
from celery_saga.core.ports import Backlog, Publisher
from celery_saga.core.recovery.policy import POLICY
from celery_saga.messaging.broker import backlog, lacks_exchange, open_connection
from celery_saga.messaging.outcome import START
from celery_saga.messaging.routing import exchange_of, queue_of

log = logging.getLogger("celery_saga")

#: Seconds for which the recovery of a worker waits for each of its two questions.
ANSWER_TIMEOUT = POLICY.workers_asked_timeout


@dataclass(frozen=True)
class Answer:
    """What one worker said, and the moments before and after it."""

    node: str
    said: Any
    asked: float
    answered: float


def ask(
    app: Celery,
    connection: Connection,
    question: str,
    timeout: float,
    nodes: list[str] | None = None,
    **arguments: Any,
) -> list[Answer]:
    """Every answer; of ``nodes``, or of whoever is there.

    Once all of ``nodes`` have answered, nobody is waited for; a name stands there for each worker.
    Celery's own inspection puts answers together by the workers' names, and so makes one of two
    that have the same.
    """
    answers: list[Answer] = []
    asked = time.time()

    def take(reply: Mapping[str, Any]) -> None:
        answers.extend(Answer(node, said, asked, time.time()) for node, said in reply.items())

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


def tasks_of(said: Any) -> frozenset[str]:
    """Names of tasks; Celery puts some options behind a name."""
    names = said if isinstance(said, list) else []
    return frozenset(str(name).partition(" [")[0] for name in names)


def queues_of(said: Any) -> frozenset[str]:
    """Names of the queues that a worker consumes."""
    found = said if isinstance(said, list) else []
    return frozenset(str(queue.get("name")) for queue in found)


def workers_without_plugin(app: Celery, queues: Collection[str]) -> Mapping[str, Collection[str]]:
    """Names of the workers that consume these queues and do not know of sagas, by queue.

    A worker without the plugin would log an error about a question that it does not know: it is
    asked for the tasks that it has. One that does not answer in time is none, as far as is known.
    """
    found: dict[str, set[str]] = {}
    try:
        with open_connection(app) as connection:
            consumed = {
                answer.node: queues_of(answer.said).intersection(queues)
                for answer in ask(app, connection, "active_queues", ANSWER_TIMEOUT)
            }
            nodes = sorted(node for node, some in consumed.items() if some)
            if not nodes:
                return {}
            for answer in ask(app, connection, "registered", ANSWER_TIMEOUT, nodes, builtins=True):
                if isinstance(answer.said, list) and START not in tasks_of(answer.said):
                    for queue in consumed.get(answer.node, ()):
                        found.setdefault(queue, set()).add(answer.node)
    except OperationalError:
        log.debug("the broker is away", exc_info=True)
    return found


class CeleryInspector:
    """What one app's broker and its workers tell.

    Args:
        app: the Celery app.
        publisher: knows what became of the messages that this process has sent.
    """

    def __init__(self, app: Celery, publisher: Publisher) -> None:
        self._app, self._publisher = app, publisher

    def has_task(self, name: str) -> bool:
        return name in self._app.tasks

    def queue_of(self, execution: SagaExecution, ref: StepRef) -> str:
        return queue_of(self._app, call_of(execution, ref.step, ref.direction))

    def not_sent(self, execution: SagaExecution, ref: StepRef) -> MessageState | None:
        known = self._publisher.undelivered(ref.task_id(execution.saga_id))
        if known is not None:
            return known
        exchange = exchange_of(self._app, call_of(execution, ref.step, ref.direction))
        lost = bool(exchange) and lacks_exchange(self._app, exchange)
        return MessageState.NOWHERE if lost else None

    def workers_without_plugin(self, queues: Collection[str]) -> Mapping[str, Collection[str]]:
        return workers_without_plugin(self._app, queues)

    def backlog(self, queues: Collection[str]) -> Backlog:
        return backlog(self._app, queues)
