"""From a decided command to a Celery message: every id, header and repr is made here."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError, SerializationError

from celery_saga.broker import open_connection
from celery_saga.decide.events import Alert, Dispatch
from celery_saga.decide.moves import call_of
from celery_saga.errors import UnsendableStep
from celery_saga.execution import Direction, SagaExecution, Slot
from celery_saga.masking import DEFAULT_MASK_KEYS, masked
from celery_saga.outbox import RedisOutbox
from celery_saga.stores import Outbox

log = logging.getLogger("celery_saga")

#: The message header that marks a step of a saga.
HEADER = "saga"

#: What a dict literal can hold as it is; other values are shown by their text.
_LITERALS = (str, int, float, bool, type(None))

#: Characters of a value's repr, and of all of them, that are shown of a step's arguments.
VALUE_REPR, ARGUMENTS_REPR = 80, 800


class CeleryDispatcher:
    """Sends steps as the user's own tasks.

    Args:
        app: the Celery app whose tasks, routes and broker are used.
        outbox: how the store sends messages with a checkpoint, where that may be possible.
    """

    def __init__(self, app: Celery, outbox: RedisOutbox | None = None) -> None:
        self._app = app
        self._outbox = outbox
        self._eager: deque[Mapping[str, Any]] | None = None

    def request(self, execution: SagaExecution, command: Dispatch) -> Mapping[str, Any]:
        slot = command.slot
        call = call_of(execution, slot.step, slot.direction)
        name = execution.steps[slot.step].name
        kwargs = call.arguments(execution.values)
        args = [dict(execution.values)] if call.style == "context" else []
        options: dict[str, Any] = {
            **call.options,
            "task_id": slot.task_id(execution.saga_id),
            "root_id": execution.saga_id,
            "parent_id": _parent_id(execution, slot),
            "add_to_parent": False,
            "serializer": "json",
            "ignore_result": not self._app.conf.saga_store_step_results,
            "retries": command.retries,
            "argsrepr": "(<SagaContext>,)" if args else "()",
            "kwargsrepr": self._kwargsrepr(execution.saga_id, name, slot, kwargs),
            "headers": {
                # Saga, step, direction and epoch are in the task's id.
                HEADER: {"step": name, "plan": execution.plan.hash}
            },
        }
        return {"task": call.task, "args": args, "kwargs": kwargs, "options": options}

    def _kwargsrepr(self, saga_id: str, step: str, slot: Slot, kwargs: Mapping[str, Any]) -> str:
        """A short dict literal: Flower indexes it by key, so it must stay one."""
        shown: dict[str, Any] = {"saga_id": saga_id, "step": step}
        if slot.direction is Direction.BACKWARD:
            shown["undo"] = True
        size = 0
        for key, value in kwargs.items():
            safe = masked({key: value}, self._mask_keys())[key]
            text = repr(safe)
            size += min(len(text), VALUE_REPR)
            if size > ARGUMENTS_REPR:
                break
            if len(text) > VALUE_REPR:
                shown[key] = text[:VALUE_REPR] + "..."
            else:
                shown[key] = safe if type(safe) in _LITERALS else text
        return repr(shown)

    def _mask_keys(self) -> Collection[str]:
        keys = self._app.conf.saga_mask_keys
        return DEFAULT_MASK_KEYS if keys is None else keys

    def outbox(self, requests: Sequence[Mapping[str, Any]]) -> Outbox | None:
        box = self._outbox
        if box is None or self._app.conf.task_always_eager or not box.usable():
            return None
        try:
            pushes = [push for request in requests for push in box.collect(request)]
            return Outbox(box.database(), pushes)
        except Exception:
            # Publishing it will meet the same trouble, and deal with it.
            log.debug("a message could not be made beforehand", exc_info=True)
            return None

    def outbox_failed(self) -> None:
        if self._outbox is not None:
            self._outbox.forget()

    def publish(self, request: Mapping[str, Any]) -> None:
        try:
            self._send(request)
        except (TypeError, ValueError, SerializationError) as error:
            step = request["options"]["headers"][HEADER]["step"]
            text = f"{type(error).__name__}: {error}"
            raise UnsendableStep(step, request["task"], text) from error

    def _send(self, request: Mapping[str, Any]) -> None:
        task = self._app.tasks.get(request["task"])
        if task is None:
            self._app.send_task(
                request["task"], request["args"], request["kwargs"], **request["options"]
            )
        elif self._app.conf.task_always_eager:
            self._run_eagerly(request)
        else:
            task.apply_async(request["args"], request["kwargs"], **request["options"])

    def _run_eagerly(self, request: Mapping[str, Any]) -> None:
        """One step after the other in a loop: a step's successor is not run inside of it."""
        if self._eager is not None:
            self._eager.append(request)
            return
        self._eager = deque([request])
        try:
            while self._eager:
                step = self._eager.popleft()
                task = self._app.tasks[step["task"]]
                options = {k: v for k, v in step["options"].items() if k != "retries"}
                task.apply_async(step["args"], step["kwargs"], **options)
        finally:
            self._eager = None

    def announce(self, execution: SagaExecution) -> None:
        level = logging.WARNING if execution.status.value == "STUCK" else logging.INFO
        log.log(
            level,
            "saga %s %s: %s",
            execution.name,
            execution.saga_id,
            execution.status.value,
            extra={
                "saga_id": execution.saga_id,
                "saga_name": execution.name,
                "saga_status": execution.status.value,
            },
        )

    def alert(self, execution: SagaExecution, alert: Alert) -> None:
        log.error(
            "%s: %s",
            alert.name,
            alert.text,
            extra={"saga_id": execution.saga_id, "saga_name": execution.name},
        )

    def queue_is_empty(self, execution: SagaExecution, slot: Slot) -> bool | None:
        call = call_of(execution, slot.step, slot.direction)
        task = self._app.tasks.get(call.task)
        options = {"queue": getattr(task, "queue", None), **call.options}
        options = {key: value for key, value in options.items() if value is not None}
        route = self._app.amqp.router.route(options, call.task)
        queue = route.get("queue") or self._app.conf.task_default_queue
        try:
            connection = open_connection(self._app)
        except OperationalError:
            return None
        with connection:
            try:
                channel: Any = connection.default_channel
                found = channel.queue_declare(queue=getattr(queue, "name", queue), passive=True)
            except connection.channel_errors:
                return True  # there is no such queue, and so nothing in it
            except connection.recoverable_connection_errors:
                return None
        return bool(found.message_count == 0)


def _parent_id(execution: SagaExecution, slot: Slot) -> str:
    """The task before: the previous step's, or for an undo the one that it undoes."""
    index = slot.step if slot.direction is Direction.BACKWARD else slot.step - 1
    if index < 0:
        return execution.saga_id
    epoch = execution.steps[index].epoch - (slot.direction is Direction.BACKWARD)
    return Slot(index, Direction.FORWARD, epoch).task_id(execution.saga_id)
