"""The wrapper of a user's task: claim, run, report.

An error of a report must not turn a finished step into a failed task. Nothing is published from
here: a report goes through the orchestrator like any other event.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import (
    MaxRetriesExceededError,
    Reject,
    Retry,
    WorkerTerminate,
)
from celery.platforms import EX_FAILURE

from celery_saga.core import info
from celery_saga.core.context.codec import returned_key
from celery_saga.core.context.data import Values, returned, values_of
from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.decide.observed import fields_of, log_fields
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.events import Alert, Event, StepFailed, StepReleased, StepSucceeded
from celery_saga.core.execution import Claim, Direction, SagaExecution, StepRef
from celery_saga.core.failures import class_names, recorded
from celery_saga.core.plan import Choice, PlanStep
from celery_saga.core.ports import UNKNOWN, Refused
from celery_saga.core.retry import retry_while_unavailable
from celery_saga.definition.contexts.running import argument_of, checked, whole_context
from celery_saga.errors import (
    AbortSaga,
    BadStepResult,
    BarrierPassedTwice,
    SagaExecutionNotFoundException,
    StoreUnavailable,
    UnreadableCheckpoint,
    UnserializableValue,
)
from celery_saga.messaging.events import refused
from celery_saga.messaging.message import header_of
from celery_saga.messaging.results import track
from celery_saga.messaging.retries import revision_of
from celery_saga.runtime import Runtime
from celery_saga.worker.current_step import finished
from celery_saga.worker.eager import new_claim
from celery_saga.worker.receivers import expected_at, worker_terminating, wrapper_reached
from celery_saga.worker.remote.requests import new_request, raised, response_for

log = logging.getLogger("celery_saga")

#: After these errors the effect may have happened although the body raised.
_EFFECT_POSSIBLE = (SoftTimeLimitExceeded, MemoryError, BarrierPassedTwice)


def run_step(
    runtime: Runtime,
    request: Any,
    delivery: tuple[str, StepRef],
    body: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    claim: Claim | None = None,
) -> Any:
    """Run one delivery of a step; returns what the body returned.

    Args:
        request: Celery's request of the task that runs.
        delivery: saga id and ref, as :mod:`celery_saga.worker.delivery` found them.
        claim: a claim that is held already; by default it is made here, before the body runs.

    Raises:
        Ended: the delivery is stale or a duplicate; the body was not run.
        Reject: the store is unavailable; the delivery is returned to the broker.
    """
    saga_id, ref = delivery
    wrapper_reached(request)
    if claim is None:
        claim = new_claim(runtime, request, ref)
    execution = _claimed(runtime, request, saga_id, ref, claim)
    return _Delivery(runtime, request, execution, ref, claim).run(body, args, kwargs)


def _claimed(
    runtime: Runtime, request: Any, saga_id: str, ref: StepRef, claim: Claim
) -> SagaExecution:
    """Return the saga with the claim on its step; raises like :func:`run_step`."""
    try:
        header = header_of(request) or {}
        plan, run_id = header.get("plan"), header.get("run_id", "")
        execution = runtime.orchestrator.claim(saga_id, ref, claim, plan, run_id)
    except StoreUnavailable as error:
        raise Reject(error, requeue=True) from error
    except UnreadableCheckpoint as error:
        log.error("%s (the message of %s is dropped)", error, ref, extra=log_fields(saga_id))
        raise refused(saga_id, ref, Refused("unreadable")) from error
    if isinstance(execution, Refused):
        if execution.reason == UNKNOWN:
            _warn_of_unknown_saga(runtime, saga_id, ref, request.task)
        else:
            text, extra = "saga %s: %s delivery of %s dropped", log_fields(saga_id)
            log.info(text, saga_id, execution.reason, ref, extra=extra)
        raise refused(saga_id, ref, execution)
    if runtime.app.conf.task_track_started:
        track(runtime.app, runtime.store, saga_id)
    return execution


class _Delivery:
    """One claimed delivery."""

    def __init__(
        self,
        runtime: Runtime,
        request: Any,
        execution: SagaExecution,
        ref: StepRef,
        claim: Claim,
    ) -> None:
        self._runtime, self._request, self._execution = runtime, request, execution
        self._orchestrator = runtime.orchestrator
        self._retries: int = request.retries or 0
        self._ref, self._claim = ref, claim
        self._call = call_of(execution, ref.path, ref.direction)
        self._step: PlanStep = execution.plan.step(ref.path)
        self._name = execution.steps[ref.path].name
        self._is_condition = isinstance(execution.plan.at(ref.path), Choice)
        self._context: Any = None
        forward = ref.direction is Direction.FORWARD
        #: Whether it is the handler of a remote step's reply.
        self._handles = forward and execution.steps[ref.path].reply_status > 0

    def run(self, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            if self._call.style == "context":
                # The checkpoint is authoritative: the copy in the message is not used.
                self._context = argument_of(self._execution, self._ref, self._runtime.app.tasks)
                args = (self._context, *args[1:])
            if self._handles:
                response = response_for(self._runtime, self._execution, self._ref, self._call)
                args = (self._context, response, *args[2:])
            token = info.current.set(lambda: self._info)
            try:
                result = finished(body(*args, **kwargs))
                if self._is_condition:  # it raises for what is neither, such as an array
                    result = bool(result)
                result = raised(result) if self._handles else result
            finally:
                info.current.reset(token)
        except Retry as error:
            lost = issubclass(type(error.exc), _EFFECT_POSSIBLE)
            revised = revision_of(self._request, error.sig)  # type: ignore[attr-defined]
            at = expected_at(error, self._now())
            self._release(at, self._retries + 1, lost, revised)
            raise
        except Reject as error:
            if error.requeue:  # type: ignore[attr-defined]
                self._release(self._now(), self._retries)
            else:
                self._fail(error)
            raise
        except Exception as error:
            if worker_terminating():  # recovery decides: the outcome is unknown
                raise WorkerTerminate(EX_FAILURE) from error
            self._fail(error)
            raise
        self._succeed(result)
        return result

    @cached_property
    def _info(self) -> info.SagaInfo:
        """The step's information, one object for the whole body."""
        step, ref = self._execution.steps[self._ref.path], self._ref
        action = self._execution.plan.committed(ref.path) or ref.path
        forward = ref.direction is Direction.FORWARD
        return info.SagaInfo(
            saga_id=self._execution.saga_id,
            saga_name=self._execution.name,
            step=step.name,
            direction=ref.direction.value,
            attempt=1 + self._retries + step.attempts + step.lost,
            round=self._execution.round(ref.path, ref.direction),
            idempotency_key=self._execution.idempotency_key(ref.path, ref.direction),
            forward_key=self._execution.idempotency_key(action, Direction.FORWARD),
            cause=None if forward else _cause_of(self._execution),
        )

    @property
    def _fields(self) -> dict[str, Any]:
        """Fields of log records."""
        return fields_of(self._execution, self._ref)

    def _now(self) -> float:
        return self._orchestrator.store.now()

    def _succeed(self, result: Any) -> None:
        try:
            event = self._success(result)
        except StoreUnavailable as error:  # the same as in _report
            raise Reject(error, requeue=True) from error
        except Exception as error:
            # The body ran: its effect exists, and only its result cannot be used.
            self._fail(error, effect=True)
            raise
        self._report(event)

    def _success(self, result: Any) -> StepSucceeded:
        ref, token = self._ref, self._claim.token
        if self._is_condition:
            return StepSucceeded(self._now(), ref, token, answer=result)
        if self._step.is_remote and not self._handles:
            request = new_request(self._runtime, self._name, self._call.task, result)
            return StepSucceeded(self._now(), ref, token, request=request)
        update, remove = self._changes(result)
        update = checked(self._execution, ref, update, remove, self._load)
        own = self._own(result, update)
        self._check_size(update, remove)
        return StepSucceeded(self._now(), ref, token, update, tuple(remove), own)

    def _changes(self, result: Any) -> tuple[Mapping[str, Any], list[str]]:
        """The changes of the context by the result: new values, and deleted keys."""
        if self._context is not None and self._call.returns is not False:
            return self._context_changes(result)
        # It refuses now what could not be saved later.
        return returned(self._merged(result), self._runtime.codec), []

    def _own(self, result: Any, update: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of the result that only the step's later tasks read, not the context."""
        if self._ref.direction is Direction.COMPENSATION or self._context is not None:
            return {}
        keys = self._step.later_reads.difference(update)
        if not keys or result is None:
            return {}
        found = result if isinstance(result, Mapping) else {self._step.key: result}
        try:
            names = [key for key in found if isinstance(key, str)]
            known = {returned_key(key): found[key] for key in names}
            own = {key: known[key] for key in keys if key in known}
            return returned(own, self._runtime.codec)
        except UnserializableValue:
            if self._call.returns is not False:
                raise
            text, extra = "step %r: its compensation cannot have its result", self._fields
            log.warning(text, self._step.name, exc_info=True, extra=extra)
            return {}

    def _check_size(self, update: Mapping[str, Any], remove: Collection[str]) -> None:
        limit, known = self._runtime.settings.context_limit, self._execution
        if limit is None or values_of(known.values).size + values_of(update).size <= limit:
            return  # whatever it replaces
        path, shown = self._ref.path, known.plan.key_of
        try:
            values_of(known.with_values(update, remove, path).values).check_size(limit, shown)
        except NotLoaded:
            # Close to the limit: the size of the replaced values must be known.
            found = self._load().with_values(update, remove, path)
            values_of(found.values).check_size(limit, shown)

    def _load(self) -> SagaExecution:
        load = partial(self._orchestrator.load, self._execution.saga_id)
        return retry_while_unavailable(load, self._orchestrator.store_timeout)

    def _merged(self, result: Any) -> dict[str, Any]:
        returns = self._call.returns
        if isinstance(returns, str):
            return {returns: result}
        if returns is False or result is None or self._ref.direction is Direction.COMPENSATION:
            return {}
        if isinstance(result, Mapping):
            return dict(result)
        return {self._step.key: result}

    def _context_changes(self, result: Any) -> tuple[Mapping[str, Any], list[str]]:
        view = self._execution.view(self._ref.path)
        result = self._context if result is None or result is True else result
        result = whole_context(self._call, view, result)
        if not isinstance(result, Mapping):
            raise BadStepResult(
                self._step.name,
                "a SagaContext, a mapping, None or True",
                f"{type(result).__name__} from task {self._call.task!r}",
            )
        after = returned(result, self._runtime.codec)
        texts, _, deleted = after.since(view)
        return Values(texts=texts, codec=after.codec), deleted

    def _fail(self, error: BaseException, effect: bool = False) -> None:
        kind, failure = type(error), recorded(error, self._name, self._info.attempt)
        if issubclass(kind, MaxRetriesExceededError):
            # Celery's own text contains all arguments.
            failure = replace(failure, message=failure.message.partition(" args:")[0])
        possible = effect or issubclass(kind, _EFFECT_POSSIBLE) or self._compensated_on(error)
        self._report(
            StepFailed(
                self._now(),
                self._ref,
                failure,
                token=self._claim.token,
                effect=possible,
                final=issubclass(kind, AbortSaga),
            )
        )

    def _compensated_on(self, error: BaseException) -> bool:
        wanted = self._step.compensate_on_failure
        if isinstance(wanted, bool):
            return wanted
        return not class_names(error).isdisjoint(wanted)

    def _release(
        self,
        expected_at: float,
        retries: int,
        lost: bool = False,
        revised: Mapping[str, Any] | None = None,
    ) -> None:
        now, token = self._now(), self._claim.token
        self._report(
            StepReleased(now, self._ref, token, retries, expected_at, lost=lost, revised=revised)
        )

    def _report(self, event: Event) -> None:
        saga_id, orchestrator = self._execution.saga_id, self._orchestrator
        change = partial(
            orchestrator.apply, saga_id, event, self._execution, timeout=orchestrator.store_timeout
        )
        try:
            try:
                _, changed = change()
            except SoftTimeLimitExceeded:
                # The body has ended, and only its report took so long; this limit occurs only once.
                _, changed = change()
        except StoreUnavailable as error:
            # Only this process knows the outcome. The claim is voided with this delivery, and the
            # step counts as unknown.
            raise Reject(error, requeue=True) from error
        except SagaExecutionNotFoundException:
            self._alert_operator(event)
            return
        if not changed:
            text, extra = "saga %s: the report of %s came too late", self._fields
            log.warning(text, saga_id, self._ref, extra=extra)

    def _alert_operator(self, event: Event) -> None:
        """Alert an operator: without its saga, the step will not be compensated."""
        saga_id, name = self._execution.saga_id, self._step.name
        effect = isinstance(event, StepSucceeded) or getattr(event, "effect", False)
        if not effect or self._ref.direction is Direction.COMPENSATION:
            text, extra = "saga %s: it is deleted, and the report of %s is dropped", self._fields
            log.info(text, saga_id, self._ref, extra=extra)
            return
        text = f"saga {saga_id} is deleted or expired, and its step {name!r} took effect"
        alert = Alert("saga-orphan-effect", text)
        self._orchestrator.alert(self._execution, alert, self._ref)


def _cause_of(execution: SagaExecution) -> info.Cause | None:
    failure = execution.rollback_reason or execution.error
    return None if failure is None else info.Cause(failure.step, str(failure), failure.attempt)


def _warn_of_unknown_saga(runtime: Runtime, saga_id: str, ref: StepRef, task: str) -> None:
    """Warn of a dropped delivery whose saga is not in the store, and may be in another one."""
    log.warning(
        "saga %s: the message of task %s (%s) is dropped, as this worker's store does not have "
        "the saga (%s). It was deleted or has expired; or the process that started it keeps sagas "
        "elsewhere: saga_store_url (by default the result_backend) and saga_key_prefix must be the "
        "same in every process",
        saga_id,
        task,
        ref,
        runtime.place,
        extra={"saga_id": saga_id},
    )
