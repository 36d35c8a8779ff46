"""From a decided command to a Celery message: every id, header and repr is made here."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

from celery import Celery
from kombu.exceptions import SerializationError

from celery_saga.core.context.codec import JSON, Codec
from celery_saga.core.context.data import Values, values_of
from celery_saga.core.context.masking import (
    CONTEXT,
    DEFAULT_MASK_KEYS,
    MASK,
    is_sensitive,
    words_of,
)
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.events import Alert, Dispatch, MessageState
from celery_saga.core.execution import Direction, SagaExecution, StepRef, evolved
from celery_saga.core.failures import text_of
from celery_saga.core.plan import Call
from celery_saga.core.ports import Backlog, Outbox
from celery_saga.errors import UnreadableCheckpoint, UnsendableStep
from celery_saga.messaging.broker import backlog, lacks_exchange, routes_by_name
from celery_saga.messaging.headers import HEADER, as_sent, users_headers
from celery_saga.messaging.inspection import strangers
from celery_saga.messaging.recording import added_to, recorder
from celery_saga.messaging.redis.publish import RedisOutbox, arguments, remember, send
from celery_saga.messaging.redis.result import Settlement
from celery_saga.messaging.results import announce
from celery_saga.settings import Settings

log = logging.getLogger("celery_saga")

#: Options by which messages go to an exchange, which gives them to queues that only it knows.
_ELSEWHERE = frozenset({"exchange", "routing_key"})

#: Characters of a value's repr, and of all of them, that are shown of a step's arguments.
VALUE_REPR, ARGUMENTS_REPR = 80, 800

#: The saga that runs in this very call, as it does in an eager one.
_run_here: ContextVar[str] = ContextVar("celery_saga_run_here", default="")


@contextmanager
def run_here(saga_id: str) -> Iterator[None]:
    """Run the saga's steps in this process and call, whatever ``task_always_eager`` says."""
    token = _run_here.set(saga_id)
    try:
        yield
    finally:
        _run_here.reset(token)


class CeleryDispatcher:
    """Sends steps as the user's own tasks.

    Args:
        app: the Celery app whose tasks, routes and broker are used.
        outbox: how the store sends messages with a checkpoint, where that may be possible.
        settlement: how it stores results with one.
        codec: writes the arguments that are not in a checkpoint.
    """

    def __init__(
        self,
        app: Celery,
        outbox: RedisOutbox | None = None,
        settlement: Settlement | None = None,
        codec: Codec = JSON,
    ) -> None:
        self._app, self._codec = app, codec
        self._outbox, self._settlement = outbox, settlement
        self._here = threading.local()
        #: Task ids of messages which this process could not send when it last tried.
        self._unsent: set[str] = set()

    def request(self, execution: SagaExecution, command: Dispatch) -> Mapping[str, Any]:
        """One step's message as plain data; its arguments are JSON texts."""
        ref = command.ref
        call = call_of(execution, ref.step, ref.direction)
        name = execution.steps[ref.step].name
        values = values_of(execution.values)
        kwargs = call.texts(execution.inputs_of(ref.step, ref.direction))
        args = [self._context(execution.saga_id, values)] if call.style == "context" else []
        args += [self._codec.dumps(value) for value in call.args[len(args) :]]
        options: dict[str, Any] = {
            **call.options,
            "task_id": ref.task_id(execution.saga_id),
            "root_id": execution.root,
            "parent_id": _parent_id(execution, ref),
            "add_to_parent": False,
            "serializer": "json",
            "ignore_result": not self._store_results,
            "retries": command.retries,
            "argsrepr": f"({CONTEXT},)" if call.style == "context" else "()",
            "kwargsrepr": self._kwargsrepr(execution, ref, call, kwargs),
            "headers": {**_headers(execution, ref.step), HEADER: mark_of(execution)},
        }
        return {
            "saga_id": execution.saga_id,
            "step": name,
            "task": call.task,
            "args": args,
            "kwargs": kwargs,
            "options": options,
            "template": call.alike,
        }

    def _context(self, saga_id: str, values: Values) -> str:
        """The whole context, or above the limit a reference: the checkpoint is read in any case.

        Hohpe and Woolf's claim check.
        """
        if values.size > self._inline_limit:
            return JSON.dumps({"saga_context": saga_id})
        return values.json()

    def _kwargsrepr(
        self, execution: SagaExecution, ref: StepRef, call: Call, kwargs: Mapping[str, str]
    ) -> str:
        """A short dict literal: Flower indexes it by key, so it must stay one.

        The first keys are those by which people find a saga; no parameter takes their place.
        """
        shown: dict[str, Any] = {
            "saga": execution.name,
            "saga_id": execution.saga_id,
            "step": execution.steps[ref.step].name,
        }
        if ref.direction is Direction.BACKWARD:
            shown["undo"] = True
        size, words, origins = 0, self._mask_keys, call.origins
        for key in [key for key in kwargs if key not in shown]:
            text = kwargs[key]
            try:
                shown[key] = MASK if is_sensitive(origins[key], words) else _shown(text)
            except (ValueError, IndexError) as error:
                where = f"context[{origins[key]!r}]"
                raise UnreadableCheckpoint(execution.saga_id, where, str(error)) from error
            size += len(str(shown[key]))
            if size > ARGUMENTS_REPR:
                break
        return repr(shown)

    @cached_property
    def _inline_limit(self) -> int:
        return Settings.of(self._app).context_inline_limit

    @cached_property
    def _store_results(self) -> bool:
        return Settings.of(self._app).store_step_results

    @cached_property
    def _mask_keys(self) -> frozenset[str]:
        keys = Settings.of(self._app).mask_keys
        return DEFAULT_MASK_KEYS if keys is None else words_of(keys)

    def opening(self, execution: SagaExecution) -> tuple[SagaExecution, Mapping[str, Any]]:
        request = self.request(execution, Dispatch(StepRef((0,), Direction.FORWARD, 1)))
        if self._is_eager(request) or not added_to(self._app, self._app.tasks.get(request["task"])):
            return execution, request
        producer = recorder(self._app)
        try:
            send(self._app, request, producer=producer)
        except Exception:
            # Publishing it will meet the same trouble, and deal with it.
            log.debug("the first message could not be made beforehand", exc_info=True)
        made = producer.recorded
        if made is None:
            return execution, request
        headers = users_headers(made.headers) or None
        return evolved(execution, headers=headers), {**request, "made": made}

    def outbox(self, requests: Sequence[Mapping[str, Any]]) -> Outbox | None:
        box = self._outbox
        if box is None or any(map(self._is_eager, requests)) or not box.usable():
            return None
        try:
            pushes = [push for request in requests for push in box.collect(request)]
            return Outbox(box.database(), pushes)
        except Exception:
            # Publishing it will meet the same trouble, and deal with it.
            log.debug("a message could not be made beforehand", exc_info=True)
            return None

    def settlement(self, execution: SagaExecution) -> Outbox | None:
        return None if self._settlement is None else self._settlement.outbox(execution)

    def outbox_failed(self) -> None:
        if self._outbox is not None:
            self._outbox.forget()

    def publish(self, request: Mapping[str, Any]) -> None:
        try:
            self._send(request)
        except (TypeError, ValueError, SerializationError) as error:
            text = f"{type(error).__name__}: {text_of(error)}"
            raise UnsendableStep(request["step"], request["task"], text) from error
        except Exception:
            remember(self._unsent, request["options"]["task_id"], True)
            raise
        remember(self._unsent, request["options"]["task_id"], False)

    def _is_eager(self, request: Mapping[str, Any]) -> bool:
        here = request["saga_id"] == _run_here.get()
        return here or bool(self._app.conf.task_always_eager)

    def _send(self, request: Mapping[str, Any]) -> None:
        if request["task"] in self._app.tasks and self._is_eager(request):
            self._run_eagerly(request)
        elif self._outbox is None or not self._outbox.deliver(request):
            send(self._app, request)

    def _run_eagerly(self, request: Mapping[str, Any]) -> None:
        """One step after the other in a loop: a step's successor is not run inside of it."""
        steps: deque[Mapping[str, Any]] | None = getattr(self._here, "steps", None)
        if steps is not None:
            steps.append(request)
            return
        self._here.steps = steps = deque([request])
        try:
            while steps:
                step = steps.popleft()
                if self._app.conf.task_always_eager:
                    send(self._app, step)
                else:
                    args, kwargs = arguments(step)
                    self._app.tasks[step["task"]].apply(args, kwargs, **step["options"])
        finally:
            self._here.steps = None

    def announce(self, execution: SagaExecution) -> None:
        if self._settlement is None or not self._settlement.store(execution):
            announce(self._app, execution)

    def alert(self, execution: SagaExecution, alert: Alert) -> None:
        log.error(
            "%s: %s",
            alert.name,
            alert.text,
            extra={"saga_id": execution.saga_id, "saga_name": execution.name},
        )

    def has_task(self, name: str) -> bool:
        return name in self._app.tasks

    def queue_of(self, execution: SagaExecution, ref: StepRef) -> str:
        return queue_of(self._app, call_of(execution, ref.step, ref.direction))

    def not_sent(self, execution: SagaExecution, ref: StepRef) -> MessageState | None:
        task_id = ref.task_id(execution.saga_id)
        if task_id in self._unsent:
            return MessageState.UNSENT
        nowhere = self._outbox is not None and task_id in self._outbox.nowhere
        exchange = exchange_of(self._app, call_of(execution, ref.step, ref.direction))
        lost = nowhere or (bool(exchange) and lacks_exchange(self._app, exchange))
        return MessageState.NOWHERE if lost else None

    def strangers(self, queues: Collection[str]) -> Mapping[str, Collection[str]]:
        return strangers(self._app, queues)

    def backlog(self, queues: Collection[str]) -> Backlog:
        return backlog(self._app, queues)


def header_of(carrier: Any) -> Mapping[str, str] | None:
    """What marks the message of a step; ``carrier`` is whatever has the headers of a message."""
    headers = getattr(carrier, "headers", None)
    if not headers or not isinstance(headers, Mapping):
        return None
    found = headers.get(HEADER)
    return found if isinstance(found, dict) else None


def queue_of(app: Celery, call: Call) -> str:
    """The queue to which ``app`` sends a step's task; empty: nobody knows.

    An exchange decides, or a route that is a function: it may look at the message, and what it says
    without one is worth nothing.
    """
    options = _places(app, call)
    if "queue" in options and not options.keys() >= _ELSEWHERE:
        return _name(options["queue"])
    if options.keys() & _ELSEWHERE or not routes_by_name(app):
        return ""
    try:
        route = app.amqp.router.route(options, call.task)
    except Exception:
        log.debug("it is not known where task %r is sent", call.task, exc_info=True)
        return ""
    if not route.get("queue") and route.keys() & _ELSEWHERE:
        return ""
    return _name(route.get("queue") or app.conf.task_default_queue)


def exchange_of(app: Celery, call: Call) -> str:
    """The exchange that a step, its task or a route by names names; empty: none is known."""
    options = _places(app, call)
    if not options and routes_by_name(app):
        try:
            options = app.amqp.router.route({}, call.task)
        except Exception:
            log.debug("it is not known where task %r is sent", call.task, exc_info=True)
    return _name(options.get("exchange") or "")


def _places(app: Celery, call: Call) -> dict[str, Any]:
    """What a step or its task says of where its messages go."""
    task = app.tasks.get(call.task)
    options = {key: getattr(task, key, None) for key in ("queue", *_ELSEWHERE)} | dict(call.options)
    return {key: value for key, value in options.items() if value is not None}


def _name(queue: Any) -> str:
    return str(getattr(queue, "name", queue))


def _headers(execution: SagaExecution, index: int) -> dict[str, Any]:
    """What is among the headers of a step's message beside Celery's own and ours."""
    revised = (execution.steps[index].revised or {}).get("headers")
    if revised is None and execution.headers is None:
        return {}
    return {**as_sent(execution.headers), **as_sent(revised)}


def mark_of(execution: SagaExecution) -> dict[str, str]:
    """What marks the message of a step; saga, step, direction and epoch are in the task's id."""
    plan = execution.plan.hash
    return {"plan": plan, "run": execution.run} if execution.run else {"plan": plan}


def _shown(text: str) -> Any:
    """A value for people to read: itself if it is short and plain, else how large it is."""
    kind = text[0]
    if kind in "{[":
        if len(text) <= VALUE_REPR and text.startswith('{"__type__"'):
            return str(JSON.loads(text))  # a date and the like
        return f"<{'dict' if kind == '{' else 'list'}, {len(text)} bytes>"
    if len(text) > VALUE_REPR:
        return text[1:VALUE_REPR] + "..."
    return json.loads(text)


def _parent_id(execution: SagaExecution, ref: StepRef) -> str | None:
    """The task before: the previous step's, or for an undo the one that it undoes."""
    index = ref.step if ref.direction is Direction.BACKWARD else ref.step - 1
    if index < 0:
        return execution.parent_id or None
    step = execution.steps[index]
    epoch = step.forward_epoch or step.epoch
    return StepRef((index,), Direction.FORWARD, epoch).task_id(execution.saga_id)
