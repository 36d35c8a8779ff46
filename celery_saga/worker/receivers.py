"""Signal receivers that report deliveries which the wrapper of the body cannot report.

Only a worker's main process is notified of lost child processes, hard limits, revokes and unknown
tasks. Some of these signals have only the task id, which therefore names saga, step and epoch.

An exception before the wrapper is reached (``Task.before_start``, an annotation around
``__call__``) is a failure that the process reports which runs the task: the body was not started.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from typing import Any
from weakref import WeakSet

from billiard import current_process
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, signals
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry
from celery.worker import state

from celery_saga.core.decide.observed import log_fields
from celery_saga.core.events import (
    ClaimVoided,
    Event,
    StepFailed,
    StepReleased,
    StepRevoked,
    TaskUnknown,
)
from celery_saga.core.execution import Failure, StepRef
from celery_saga.core.failures import recorded
from celery_saga.core.retry import retry_while_unavailable
from celery_saga.definition.builder import SAGAS, SagaDefinition
from celery_saga.errors import AbortSaga, SagaExecutionNotFoundException, StoreUnavailable
from celery_saga.messaging.message import header_of, request_header_of
from celery_saga.runtime import installed, only_app

log = logging.getLogger("celery_saga")

#: Celery's requests of the deliveries that have reached the wrapper, which then reports them.
_reached: WeakSet[Any] = WeakSet()


def connect() -> None:
    """Connect the receivers; a second call changes nothing."""
    signals.task_failure.connect(_on_failure, weak=False, dispatch_uid="celery_saga.failure")
    signals.task_internal_error.connect(
        _on_internal_error, weak=False, dispatch_uid="celery_saga.internal_error"
    )
    signals.task_retry.connect(_on_retry, weak=False, dispatch_uid="celery_saga.retry")
    signals.task_revoked.connect(_on_revoked, weak=False, dispatch_uid="celery_saga.revoked")
    signals.task_unknown.connect(_on_unknown, weak=False, dispatch_uid="celery_saga.unknown")
    signals.worker_shutdown.connect(_on_shutdown, weak=False, dispatch_uid="celery_saga.shutdown")


def wrapper_reached(request: Any) -> None:
    """Record that the wrapper of the body reports this delivery from here on.

    Args:
        request: Celery's request of the task that runs.
    """
    _reached.add(request)


def body_aborted(task_id: str) -> None:
    """Release a body of this process that ended by ``SystemExit`` or the like.

    Pools that run bodies in the worker's main process (threads, gevent) do not notice it. Celery
    and the engine would count the task as running for ever, and its message would occupy one of the
    prefetched ones. The prefork pool notices the end of its process.
    """
    if current_process().name != "MainProcess":
        return
    for request in {*state.active_requests, *state.reserved_requests}:
        if request.id == task_id:
            state.task_ready(request)
            request.acknowledge()


def worker_terminating() -> bool:
    """Whether an exception in a body may come from the end of the worker, not from the body.

    Under the solo pool signals are handled in the thread of the body. A cold shutdown cannot end
    such a task, and raises ``NotImplementedError`` in it.
    """
    return bool(state.should_terminate) and threading.current_thread() is threading.main_thread()


Make = Callable[[float, StepRef, str], Event]


def _submit(app: Celery, task_id: str | None, carrier: Any, make: Make) -> bool:
    """Submit a report on a task; ``carrier`` has the headers of its message.

    Returns whether this process has a heartbeat that accepts it.
    """
    runtime, found = installed(app), StepRef.parse(task_id or "")
    if runtime is None or runtime.heartbeat is None or found is None:
        return False
    saga_id, ref = found
    return runtime.heartbeat.submit(
        saga_id, lambda at: make(at, ref, runtime.instance), _run_id(carrier)
    )


def _run_id(carrier: Any) -> str | None:
    header = header_of(carrier)
    return None if header is None else header.get("run_id", "")


def _report(app: Celery, request: Any, make: Make) -> None:
    """Report a delivery that did not reach the wrapper of its body.

    The report names no claim: if another delivery has the step, the outcome is that delivery's.
    """
    runtime, found = installed(app), StepRef.parse(request.id or "")
    if runtime is None or found is None or request in _reached:
        return
    if not request.is_eager and _submit(app, request.id, request, make):
        return
    (saga_id, ref), orchestrator = found, runtime.orchestrator
    try:
        now = retry_while_unavailable(orchestrator.store.now, orchestrator.store_timeout)
        event, run_id = make(now, ref, runtime.instance), _run_id(request)
        orchestrator.apply(saga_id, event, timeout=orchestrator.store_timeout, run_id=run_id)
    except SagaExecutionNotFoundException:
        text = "task %s has failed, and its saga is deleted"
        log.info(text, request.id, extra=log_fields(saga_id))
    except StoreUnavailable:
        text, extra = (
            "task %s has failed, and the store is unavailable: it is sent again",
            log_fields(saga_id),
        )
        log.warning(text, request.id, extra=extra)


def _on_failure(sender: Any = None, task_id: str | None = None, **kwargs: Any) -> None:
    error, request = kwargs.get("exception"), sender.request_stack.top
    if isinstance(error, WorkerLostError):
        _submit(sender.app, task_id, request, _voided)
    elif isinstance(error, TimeLimitExceeded):
        text = f"the hard time limit ended it: {error}"
        failure = Failure("celery.exceptions.TimeLimitExceeded", text)

        def failed(at: float, ref: StepRef, instance: str) -> StepFailed:
            return StepFailed(at, ref, failure, instance=instance, effect=True)

        _submit(sender.app, task_id, None, failed)  # Celery has only the id of this one
    elif isinstance(error, BaseException):
        if request is None:  # the message was rejected, and the main process returns it
            _submit(sender.app, task_id, None, partial(_not_begun, error, None))
        else:
            _report(sender.app, request, partial(_not_begun, error, request.retries or 0))


def _on_internal_error(
    sender: Any = None, request: Any = None, exception: Any = None, **kwargs: Any
) -> None:
    """Handle the only signal of an eager call whose error is raised in its caller.

    In a worker such an error comes from Celery itself (its result backend is unavailable). It says
    nothing about the step, which is sent again.
    """
    eager = isinstance(request, dict) and request.get("is_eager")
    if eager and not isinstance(exception, (Ignore, Reject, Retry)):
        context = Context(request)
        _report(sender.app, context, partial(_not_begun, exception, context.retries or 0))


def _not_begun(
    error: BaseException, retries: int | None, at: float, ref: StepRef, instance: str
) -> StepFailed:
    """Make the failure of a task whose body was not started; it ends no claim of another one."""
    final = isinstance(error, AbortSaga)
    return StepFailed(at, ref, recorded(error, ""), final=final, retries=retries)


def _voided(at: float, ref: StepRef, instance: str) -> ClaimVoided:
    return ClaimVoided(at, ref, instance=instance, started=True)


def _on_retry(sender: Any = None, request: Any = None, reason: Any = None, **kwargs: Any) -> None:
    """Handle ``retry_on_worker_lost``: the main process has sent a retry because a child was lost.

    The signal also comes if a task was retried before its body. All other retries are reported by
    the body's wrapper; those of a cold shutdown are not retries.
    """
    if not isinstance(reason, Retry):
        return
    lost, retries = isinstance(reason.exc, WorkerLostError), (request.retries or 0) + 1

    def released(at: float, ref: StepRef, instance: str) -> StepReleased:
        holder = instance if lost else ""  # without an instance it ends no claim
        return StepReleased(at, ref, "", retries, expected_at(reason, at), holder, lost=lost)

    if lost:
        _submit(sender.app, request.id, request, released)
    else:
        _report(sender.app, request, released)


def expected_at(error: Retry, now: float) -> float:
    """Return the time at which Celery's retry can be expected, in store time."""
    when = error.when
    if isinstance(when, datetime):
        aware = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return now + (aware - datetime.now(timezone.utc)).total_seconds()
    return now + float(when or 0)


def _on_revoked(
    sender: Any = None,
    request: Any = None,
    terminated: bool = False,
    expired: bool = False,
    **kwargs: Any,
) -> None:
    what = "expired before it was started" if expired else "revoked"
    failure = Failure("celery.exceptions.TaskRevokedError", what)

    def revoked(at: float, ref: StepRef, instance: str) -> StepRevoked:
        return StepRevoked(at, ref, failure, instance, terminated)

    _submit(sender.app, request.id, request, revoked)


def _on_unknown(
    sender: Any = None, id: str | None = None, message: Any = None, name: Any = None, **kwargs: Any
) -> None:
    found = StepRef.parse(id or "") if header_of(message) else None
    mark = request_header_of(message)
    if mark is not None:
        _report_unknown_target(sender.app, mark, str(name))
    if found is not None:
        _warn_of_unknown_task(found[0], str(name))
    _submit(sender.app, id, message, lambda at, ref, instance: TaskUnknown(at, ref))


def _report_unknown_target(app: Celery, mark: Mapping[str, str], task: str) -> None:
    """Fail the remote step whose request came here, where no service has its task."""
    text = f"no worker of its queue has the task {task!r}: is its queue in saga_targets?"
    failure, ref = Failure("NotRegistered", text), StepRef.of(mark["ref"])
    runtime = installed(app)
    if runtime is not None and runtime.heartbeat is not None:
        report = partial(StepFailed, ref=ref, failure=failure, final=True)
        runtime.heartbeat.submit(mark["saga_id"], report, None)


def _on_shutdown(sender: Any = None, **kwargs: Any) -> None:
    runtime = installed(sender.app)
    if runtime is not None and runtime.heartbeat is not None:
        heartbeat, runtime.heartbeat = runtime.heartbeat, None
        heartbeat.stop()


def _warn_of_unknown_task(saga_id: str, task: str) -> None:
    """Warn that a worker got a step whose task it does not have; it is offered again."""
    log.warning(
        "saga %s: this worker does not have the task %s of a step, which is offered again for "
        "saga_unknown_task_grace: have the worker import its module (the app's 'imports' or "
        "'include', or autodiscover_tasks()), or consume other queues",
        saga_id,
        task,
        extra={"saga_id": saga_id},
    )


def connect_without_manager() -> None:
    """Warn in the workers of this process if their app has no SagaManager."""
    signals.worker_ready.connect(
        _warn_without_manager, weak=False, dispatch_uid="celery_saga.no_manager"
    )


def _warn_without_manager(sender: Any = None, **kwargs: Any) -> None:
    app = sender.app
    if installed(app) is not None:
        return
    names = sorted({saga.name for saga in SAGAS.every() if _is_of(saga, app)})
    if names:
        log.warning(
            "the app %r of this worker has no SagaManager, and the modules that it imports commit "
            "the sagas %s: it runs their steps as plain tasks, so the sagas do not continue. Add "
            "'sagas = SagaManager(app)' after 'app = Celery(...)'",
            app.main,
            ", ".join(names),
        )


def _is_of(saga: SagaDefinition, app: Celery) -> bool:
    """Whether a saga belongs to the app; one without an app belongs to that with a manager."""
    try:
        own: Any = getattr(saga, "own_app", lambda: None)()
    except Exception:  # its tasks belong to several apps: starting it reports that
        return False
    return own is app or (own is None and only_app() is None)
