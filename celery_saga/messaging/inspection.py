"""Sends remote control commands to the broker's workers, within a bounded time."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from celery import Celery, states
from kombu import Connection
from kombu.exceptions import OperationalError

from celery_saga.core.context.codec import JSON, Codec
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.events import MessageState, ReplyReceived
from celery_saga.core.execution import SagaExecution, StepRef
from celery_saga.core.ports import Backlog, Publisher
from celery_saga.core.recovery.policy import POLICY
from celery_saga.core.remote import Outcome
from celery_saga.messaging.broker import backlog, lacks_exchange, open_connection
from celery_saga.messaging.outcome import START
from celery_saga.messaging.routing import exchange_of, queue_of
from celery_saga.settings import Settings

log = logging.getLogger("celery_saga")

#: Seconds for which the recovery of a worker waits for the replies to each of its two commands.
ANSWER_TIMEOUT = POLICY.workers_asked_timeout


@dataclass(frozen=True)
class Reply:
    """The reply of one worker, and the times before and after it."""

    node: str
    value: Any
    sent_at: float
    replied_at: float


def send_command(
    app: Celery,
    connection: Connection,
    command: str,
    timeout: float,
    nodes: list[str] | None = None,
    **arguments: Any,
) -> list[Reply]:
    """Send a remote control command; returns all replies, of ``nodes`` or of every worker.

    Once all of ``nodes`` have replied, it does not wait any more. Each worker has its own reply.
    Celery's own inspection collects replies by the workers' names, and so merges two workers that
    have the same name.
    """
    replies: list[Reply] = []
    sent_at = time.time()

    def collect(reply: Mapping[str, Any]) -> None:
        replies.extend(Reply(node, value, sent_at, time.time()) for node, value in reply.items())

    app.control.broadcast(
        command,
        arguments=arguments,
        destination=nodes,
        connection=connection,
        reply=True,
        timeout=timeout,
        limit=len(nodes) if nodes else None,
        callback=collect,
    )
    return replies


def tasks_of(value: Any) -> frozenset[str]:
    """Names of tasks in a reply; Celery appends some options to a name."""
    names = value if isinstance(value, list) else []
    return frozenset(str(name).partition(" [")[0] for name in names)


def queues_of(value: Any) -> frozenset[str]:
    """Names of the queues that a worker consumes."""
    found = value if isinstance(value, list) else []
    return frozenset(str(queue.get("name")) for queue in found)


def workers_without_plugin(app: Celery, queues: Collection[str]) -> Mapping[str, Collection[str]]:
    """Return the names of workers that consume these queues without the plugin, by queue.

    Such a worker would log an error about an unknown command, so it is asked for its tasks.
    A worker that does not reply in time is not counted.
    """
    found: dict[str, set[str]] = {}
    try:
        with open_connection(app) as connection:
            consumed = {
                reply.node: queues_of(reply.value).intersection(queues)
                for reply in send_command(app, connection, "active_queues", ANSWER_TIMEOUT)
            }
            nodes = sorted(node for node, some in consumed.items() if some)
            if not nodes:
                return {}
            for reply in send_command(
                app, connection, "registered", ANSWER_TIMEOUT, nodes, builtins=True
            ):
                if isinstance(reply.value, list) and START not in tasks_of(reply.value):
                    for queue in consumed.get(reply.node, ()):
                        found.setdefault(queue, set()).add(reply.node)
    except OperationalError:
        log.debug("the broker is unavailable", exc_info=True)
    return found


def stored_outcome(app: Celery, task_id: str) -> Outcome | None:
    """Return how a task has ended, if the result backend of ``app`` has its result."""
    if not app.conf.result_backend or app.conf.result_backend.startswith("rpc"):
        return None  # that of RPC are messages, which are for one reader
    try:
        meta = app.backend.get_task_meta(task_id)
    except Exception:
        log.debug("the result of task %s cannot be read", task_id, exc_info=True)
        return None
    if meta.get("status") == states.SUCCESS:
        return Outcome.of_result(meta.get("result"))
    if meta.get("status") in states.EXCEPTION_STATES - {states.RETRY}:
        return Outcome.of_failure(task_id, meta.get("result"))
    return None


class CeleryInspector:
    """Reads the state of one app's broker and its workers.

    Args:
        app: the Celery app.
        publisher: knows the state of the messages that this process has sent.
        codec: encodes the contents of replies.
    """

    def __init__(self, app: Celery, publisher: Publisher, codec: Codec = JSON) -> None:
        self._app, self._publisher, self._codec = app, publisher, codec

    def has_task(self, name: str) -> bool:
        return name in self._app.tasks

    def queue_of(self, execution: SagaExecution, ref: StepRef) -> str:
        return queue_of(self._app, call_of(execution, ref.path, ref.direction))

    def not_sent(self, execution: SagaExecution, ref: StepRef) -> MessageState | None:
        known = self._publisher.undelivered(ref.task_id(execution.saga_id))
        if known is not None:
            return known
        exchange = exchange_of(self._app, call_of(execution, ref.path, ref.direction))
        lost = bool(exchange) and lacks_exchange(self._app, exchange)
        return MessageState.NOWHERE if lost else None

    def reply_to(self, execution: SagaExecution, ref: StepRef) -> ReplyReceived | None:
        request = execution.steps[ref.path].open_request
        outcome = stored_outcome(self._app, ref.request_id(execution.saga_id))
        if request is None or outcome is None:
            return None
        reply, error = outcome.reply(self._codec, Settings.of(self._app).context_limit)
        return ReplyReceived(execution.updated_at, ref, request.token, reply, error)

    def workers_without_plugin(self, queues: Collection[str]) -> Mapping[str, Collection[str]]:
        return workers_without_plugin(self._app, queues)

    def backlog(self, queues: Collection[str]) -> Backlog:
        return backlog(self._app, queues)
