"""An attempt has failed: what the policy answers is carried out."""

from __future__ import annotations

from celery_saga.core.decide.policy import AfterFailure, FailedAttempt, FailureKind, after_failure
from celery_saga.core.decide.rollback import (
    compensation_failed,
    continue_rollback,
    start_rollback,
)
from celery_saga.core.decide.transitions import (
    call_of,
    hold,
    run_again,
    wait,
    with_possible_effect,
    without_result,
)
from celery_saga.core.events import Decision
from celery_saga.core.execution import Direction, Failure, SagaExecution, StepRef, StepStatus
from celery_saga.core.plan import Path


def follow_up(
    execution: SagaExecution,
    ref: StepRef,
    kind: FailureKind,
    failure: Failure,
    at: float,
    *,
    began: float | None = None,
    unknown: bool | None = None,
) -> Decision:
    """What follows a failed attempt, which the step's record counts already.

    Args:
        began: when the attempt started, store time; ``None``: now.
        unknown: whether a step that is not run again is UNKNOWN; ``None``: if it may have taken
            effect.
    """
    path, call = ref.path, call_of(execution, ref.path, ref.direction)
    answer = after_failure(FailedAttempt.of(execution, ref, call, kind))
    if answer is AfterFailure.RETRY_NOW:
        recorded = ref.direction is Direction.COMPENSATION and path in execution.journal
        if recorded and path not in execution.next_compensations:
            return continue_rollback(execution, at)  # a late effect comes before it
        return run_again(execution, path, ref.direction, at, at if began is None else began)
    if answer is AfterFailure.RETRY_LATER:
        if ref.direction is Direction.FORWARD:
            execution = execution.with_step(path, status=StepStatus.WAITING)
        return wait(execution, path, at + call.delay(execution.steps[path].attempts))
    if ref.direction is Direction.COMPENSATION:
        return compensation_failed(execution, path, failure, at)
    unknown = execution.steps[path].effect if unknown is None else unknown
    status = StepStatus.UNKNOWN if unknown else StepStatus.FAILED
    execution = without_result(execution, path, status)
    if kind is not FailureKind.UNSENDABLE:  # that one never began, and has no end
        execution = execution.with_step(path, ended_at=at)
    if answer is AfterFailure.STUCK or _waits_for_operator(execution, path, kind):
        return hold(execution, failure)
    return start_rollback(execution, failure, at)


def _waits_for_operator(execution: SagaExecution, path: Path, kind: FailureKind) -> bool:
    """Whether a step whose attempts are used up is kept for an operator, not rolled back.

    What the step itself calls final (``AbortSaga``) is an answer, and the rollback follows.
    """
    kept = execution.plan.step(path).on_exhausted == "pause"
    return kept and kind is not FailureKind.FINAL and execution.rollback_reason is None


def compensation_attempt_failed(
    execution: SagaExecution, ref: StepRef, failure: Failure, at: float, kind: FailureKind
) -> Decision:
    """An attempt of a compensation has failed: it is run again, or has failed for good."""
    attempts = execution.steps[ref.path].attempts + 1
    execution = execution.with_step(
        ref.path, attempts=attempts, compensation_error=failure, revised=None, request=None
    )
    return follow_up(execution, ref, kind, failure, at)


def ended_unclaimed(
    execution: SagaExecution, ref: StepRef, failure: Failure, at: float
) -> Decision:
    """The task was sent often enough; a worker that took it may have run it."""
    if ref.direction is Direction.FORWARD:
        execution = with_possible_effect(execution, ref.path, True)
        execution = execution.ended(ref.path, error=failure)
    return follow_up(execution, ref, FailureKind.UNCLAIMED, failure, at)


def never_sent(execution: SagaExecution, ref: StepRef, failure: Failure, at: float) -> Decision:
    """The task cannot be had from any worker: an operator has to see to that."""
    if ref.direction is Direction.FORWARD:
        execution = execution.ended(ref.path, not_before=None, error=failure)
    return follow_up(execution, ref, FailureKind.UNSENDABLE, failure, at, unknown=False)
