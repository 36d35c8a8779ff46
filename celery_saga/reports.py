"""What only a worker's main process learns: lost children, hard limits, revokes, unknown tasks.

Some of these bring nothing along but the task id, which therefore names saga, step and epoch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from billiard import current_process
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, signals
from celery.worker import state

from celery_saga.decide.events import (
    ClaimVoided,
    Event,
    StepFailed,
    StepReleased,
    StepRevoked,
    TaskUnknown,
)
from celery_saga.dispatch import header_of
from celery_saga.execution import Failure, Slot
from celery_saga.runtime import installed


def connect() -> None:
    """Listen; connecting twice is the same as once."""
    signals.task_failure.connect(_on_failure, weak=False, dispatch_uid="celery_saga.failure")
    signals.task_retry.connect(_on_retry, weak=False, dispatch_uid="celery_saga.retry")
    signals.task_revoked.connect(_on_revoked, weak=False, dispatch_uid="celery_saga.revoked")
    signals.task_unknown.connect(_on_unknown, weak=False, dispatch_uid="celery_saga.unknown")
    signals.worker_shutdown.connect(_on_shutdown, weak=False, dispatch_uid="celery_saga.shutdown")


def body_cut_off(task_id: str) -> None:
    """A body of this process ended by what is no ordinary exception (``SystemExit``, ...).

    Pools that run bodies in the worker's main process (threads, gevent) take no note of that:
    Celery would count the task as running for ever, and so would we, and its message would keep its
    place among the prefetched ones. The prefork pool notices the end of its process.
    """
    if current_process().name != "MainProcess":
        return
    for request in {*state.active_requests, *state.reserved_requests}:
        if request.id == task_id:
            state.task_ready(request)
            request.acknowledge()


def cut_short() -> bool:
    """Whether an exception in a body may come from the worker's end, and not from the body.

    Under the solo pool the body runs where signals are handled, and a cold shutdown, which cannot
    end such a task, raises ``NotImplementedError`` in the middle of it.
    """
    return bool(state.should_terminate) and threading.current_thread() is threading.main_thread()


Make = Callable[[float, Slot, str], Event]


def _post(app: Celery, task_id: str | None, carrier: Any, make: Make) -> None:
    """Hand over what became of a task; ``carrier`` is whatever has the headers of its message."""
    runtime, found = installed(app), Slot.parse(task_id or "")
    if runtime is None or runtime.heart is None or found is None:
        return
    saga_id, slot = found
    header = header_of(carrier)
    run = None if header is None else header.get("run", "")
    runtime.heart.post(saga_id, lambda at: make(at, slot, runtime.instance), run)


def _on_failure(sender: Any = None, task_id: str | None = None, **kwargs: Any) -> None:
    error = kwargs.get("exception")
    if isinstance(error, WorkerLostError):
        _post(sender.app, task_id, sender.request_stack.top, _voided)
    elif isinstance(error, TimeLimitExceeded):
        text = f"the hard time limit ended it: {error}"
        failure = Failure("celery.exceptions.TimeLimitExceeded", text)

        def failed(at: float, slot: Slot, instance: str) -> StepFailed:
            return StepFailed(at, slot, failure, instance=instance, effect=True)

        _post(sender.app, task_id, None, failed)  # of this one Celery has the id alone


def _voided(at: float, slot: Slot, instance: str) -> ClaimVoided:
    return ClaimVoided(at, slot, instance=instance, started=True)


def _on_retry(sender: Any = None, request: Any = None, reason: Any = None, **kwargs: Any) -> None:
    """``retry_on_worker_lost``: the main process has sent the retry of a task whose child died.

    All other retries are reported by the body's wrapper; a cold shutdown's are none at all.
    """
    if not isinstance(getattr(reason, "exc", None), WorkerLostError):
        return
    retries, countdown = (request.retries or 0) + 1, float(reason.when or 0)

    def released(at: float, slot: Slot, instance: str) -> StepReleased:
        return StepReleased(at, slot, "", retries, at + countdown, instance, lost=True)

    _post(sender.app, request.id, request, released)


def _on_revoked(
    sender: Any = None,
    request: Any = None,
    terminated: bool = False,
    expired: bool = False,
    **kwargs: Any,
) -> None:
    what = "expired before it was started" if expired else "revoked"
    failure = Failure("celery.exceptions.TaskRevokedError", what)

    def revoked(at: float, slot: Slot, instance: str) -> StepRevoked:
        return StepRevoked(at, slot, failure, instance, terminated)

    _post(sender.app, request.id, request, revoked)


def _on_unknown(
    sender: Any = None, id: str | None = None, message: Any = None, **kwargs: Any
) -> None:
    _post(sender.app, id, message, lambda at, slot, instance: TaskUnknown(at, slot))


def _on_shutdown(sender: Any = None, **kwargs: Any) -> None:
    runtime = installed(sender.app)
    if runtime is not None and runtime.heart is not None:
        heart, runtime.heart = runtime.heart, None
        heart.stop()
