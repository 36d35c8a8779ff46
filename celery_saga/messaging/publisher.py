"""Sends steps: with a checkpoint, over the broker, or by running them in the same call."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from celery import Celery
from kombu.exceptions import SerializationError

from celery_saga.core.context.codec import JSON, Codec
from celery_saga.core.events import Dispatch, MessageState
from celery_saga.core.execution import Direction, SagaExecution, StepRef
from celery_saga.core.failures import text_of
from celery_saga.core.ports import Envelope, Message
from celery_saga.errors import UnsendableStep
from celery_saga.messaging.headers import users_headers
from celery_saga.messaging.message import Messages
from celery_saga.messaging.recording import added_to, recorder
from celery_saga.messaging.redis.publish import RedisPublisher, arguments, remember, send

log = logging.getLogger("celery_saga")

#: The id of the saga that runs in the same call, as an eager one does.
_run_here: ContextVar[str] = ContextVar("celery_saga_run_here", default="")


#: The steps that a loop of this thread is to run, one after the other.
_loop = threading.local()


@contextmanager
def run_here(saga_id: str, at_once: bool = False) -> Iterator[None]:
    """Run the saga's steps in this process and call, whatever ``task_always_eager`` is.

    Args:
        at_once: also inside a step that a loop of this thread runs; otherwise they are run when
            that step has ended.
    """
    token, steps = _run_here.set(saga_id), getattr(_loop, "steps", None)
    if at_once:
        _loop.steps = None
    try:
        yield
    finally:
        _run_here.reset(token)
        _loop.steps = steps


class CeleryPublisher:
    """Sends steps as Celery tasks of the user's app.

    Args:
        app: the Celery app whose tasks, routes and broker are used.
        outbox: sends messages with a checkpoint, where store and broker allow it.
        codec: encodes the arguments that are not in a checkpoint.
    """

    def __init__(
        self, app: Celery, outbox: RedisPublisher | None = None, codec: Codec = JSON
    ) -> None:
        self._app, self._messages = app, Messages(app, codec)
        self._outbox = outbox
        #: Task ids of messages that this process failed to send at the last attempt.
        self._unsent: set[str] = set()

    def message(self, execution: SagaExecution, command: Dispatch) -> Message:
        return self._messages.made(execution, command)

    def first_message(self, execution: SagaExecution) -> tuple[SagaExecution, Message]:
        first = StepRef(execution.plan.first, Direction.FORWARD, 1)
        message = self.message(execution, Dispatch(first))
        if not message["task"]:
            return execution, message  # it only waits
        if self._is_eager(message) or not added_to(self._app, self._app.tasks.get(message["task"])):
            return execution, message
        producer = recorder(self._app)
        try:
            send(self._app, message, producer=producer)
        except Exception:
            # publish() will meet the same error, and handle it.
            log.debug("the first message could not be made beforehand", exc_info=True)
        made = producer.recorded
        if made is None:
            return execution, message
        headers = users_headers(made.headers) or None
        return replace(execution, headers=headers), {**message, "made": made}

    def encode(self, message: Message) -> Envelope | None:
        box = self._outbox
        if box is None or self._is_eager(message) or not box.usable():
            return None
        try:
            return box.envelope(message)
        except Exception:
            # publish() will meet the same error, and handle it.
            log.debug("a message could not be made beforehand", exc_info=True)
            return None

    def reconsider(self) -> None:
        if self._outbox is not None:
            self._outbox.forget()

    def publish(self, message: Message) -> None:
        try:
            self._send(message)
        except (TypeError, ValueError, SerializationError) as error:
            text = f"{type(error).__name__}: {text_of(error)}"
            raise UnsendableStep(message["step"], message["task"], text) from error
        except Exception:
            remember(self._unsent, message["options"]["task_id"], True)
            raise
        remember(self._unsent, message["options"]["task_id"], False)

    def _is_eager(self, message: Message) -> bool:
        here = message["saga_id"] == _run_here.get()
        return here or bool(self._app.conf.task_always_eager)

    def _send(self, message: Message) -> None:
        if message["task"] in self._app.tasks and self._is_eager(message):
            self._run_eagerly(message)
        elif self._outbox is None or not self._outbox.deliver(message):
            send(self._app, message)

    def _run_eagerly(self, message: Message) -> None:
        """Run the steps one after the other in a loop, so that they are not nested."""
        steps: deque[Message] | None = getattr(_loop, "steps", None)
        if steps is not None:
            steps.append(message)
            return
        _loop.steps = steps = deque([message])
        try:
            while steps:
                step = steps.popleft()
                if self._app.conf.task_always_eager and "link_error" not in step["options"]:
                    send(self._app, step)
                else:
                    self._apply(step)
        finally:
            _loop.steps = None

    def _apply(self, step: Message) -> None:
        """Run one task here; a request's reply, which Celery would send, too."""
        args, kwargs = arguments(step)
        options = dict(step["options"])
        links = options.pop("link", []), options.pop("link_error", [])
        result: Any = self._app.tasks[step["task"]].apply(args, kwargs, **options)
        failed = result.failed()
        for callback in links[failed]:
            outcome = result.id if failed else result.result
            self._app.tasks[callback["task"]].apply((outcome,), callback["kwargs"])

    def undelivered(self, task_id: str) -> MessageState | None:
        if task_id in self._unsent:
            return MessageState.UNSENT
        nowhere = self._outbox is not None and task_id in self._outbox.nowhere
        return MessageState.NOWHERE if nowhere else None
