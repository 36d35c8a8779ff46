"""Sends the Celery event that ends a delivery without an outcome of its own.

Celery ends a task that raises ``Ignore`` without an event, and monitors such as Flower show it as
STARTED for ever. The engine ends deliveries that way if their result is not their own: the start
of a saga, and stale or duplicate messages. The exception goes from the pool's process to the
worker's main process. There Celery's own request object sends the event that the exception names,
in order with the delivery's other events, and only where events are enabled.
"""

from __future__ import annotations

from time import time
from typing import Any

from celery.exceptions import Ignore
from kombu.utils.imports import symbol_by_name

from celery_saga.core.execution import StepRef
from celery_saga.core.ports import Refused


class Ended(Ignore):
    """Ends a delivery as ``Ignore`` does, and names the event to be sent.

    Args:
        text: why, for the log.
        event: type of the event, such as ``"task-revoked"``; empty: none.
        fields: the event's fields beside the task's id.
    """

    def __init__(self, text: str, event: str = "", **fields: Any) -> None:
        super().__init__(text)
        self.event, self.fields = event, fields


def started(saga_id: str) -> Ended:
    """Return the end of the task that started a saga: success, with the saga's id as its result."""
    return Ended(f"saga {saga_id} was started", "task-succeeded", result=repr(saga_id))


def refused(saga_id: str, ref: StepRef, refusal: Refused) -> Ended:
    """Return the end of a delivery whose claim was refused.

    Several messages may have the same id, and they share one row in a monitor. While another of
    them runs, or a retry of the task is to come, that one ends the row. A row that has succeeded or
    failed does not change any more.
    """
    text = f"saga {saga_id}: {refusal.reason} delivery of {ref}"
    if not refusal.over:
        return Ended(text)
    return Ended(text, "task-revoked", terminated=False, signum=None, expired=False)


class _ReportsEnds:
    """A mixin for a worker's request that sends the event of :class:`Ended`."""

    __slots__ = ()

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Handle an exception of the task; called by Celery."""
        request: Any = self
        done = super().on_failure(exc_info, *args, **kwargs)  # type: ignore[misc]
        # billiard keeps the exception as it is, or together with the text of its traceback.
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, Ended) and error.event:
            fields = error.fields
            if error.event == "task-succeeded":
                fields = {"runtime": time() - (request.time_start or time()), **fields}
            request.send_event(error.event, **fields)
        return done


class EndReportingRequest:
    """Replaces a task's ``Request`` option by a subclass that also reports ends.

    Celery reads the option when a worker builds its strategy for the task. The class is not made
    before that, because the option may name a module that must not be imported yet.

    Args:
        option: the option of the task class: a class, or its name.
    """

    def __init__(self, option: Any) -> None:
        self._option = option
        self._made: Any = None

    def __get__(self, task: Any, owner: Any = None) -> Any:
        if task is None:
            return self  # a worker reads it from the task, not from its class
        if self._made is None:
            cls: Any = symbol_by_name(self._option)
            known = not isinstance(cls, type) or issubclass(cls, _ReportsEnds)
            self._made = cls if known else type(cls.__name__, (_ReportsEnds, cls), {})
        return self._made
