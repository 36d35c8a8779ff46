"""The rollback: the compensations of the steps on the journal, the last one first."""

from __future__ import annotations

from celery_saga.core.decide.transitions import (
    call_of,
    end,
    missing_input,
    send,
    stuck,
    wait,
    without_result,
)
from celery_saga.core.events import Decision
from celery_saga.core.execution import (
    Direction,
    Failure,
    SagaExecution,
    SagaStatus,
    SagaStepExecution,
    StepStatus,
)
from celery_saga.core.plan import Path
from celery_saga.core.remote import SagaResponseStatus
from celery_saga.core.state import replace


def start_rollback(execution: SagaExecution, failure: Failure, at: float) -> Decision:
    """The way forward ends because of ``failure``, or of what was asked for before it."""
    error = execution.error or execution.rollback_reason or failure
    return continue_rollback(
        replace(execution, rollback_reason=execution.rollback_reason or failure, error=error), at
    )


def continue_rollback(execution: SagaExecution, at: float) -> Decision:
    """Compensate what comes next, once no step is claimed any more; at the end the saga is over."""
    execution = _without_unclaimed(execution)
    if any(ref.direction is Direction.FORWARD for ref in execution.active):
        return Decision(execution)  # a branch whose step is claimed: it may end
    status = execution.status
    if status is not SagaStatus.PAUSED:
        status = SagaStatus.COMPENSATING
    execution = replace(
        execution,
        status=status,
        direction=Direction.COMPENSATION,
        error=execution.error or execution.rollback_reason,
        held=None,
        deadline=None,
    )
    return _compensate_next(execution, at)


def _without_unclaimed(execution: SagaExecution) -> SagaExecution:
    """The execution without the steps that no worker has begun: their messages become stale."""
    if execution.direction is Direction.COMPENSATION:
        return execution
    for ref in execution.active:
        if execution.steps[ref.path].claim is None:
            execution = cancelled_dispatch(execution, ref.path)
    for path, record in list(execution.steps.every()):
        if record.status is StepStatus.WAITING:
            execution = cancelled_dispatch(execution, path)
    return execution


def cancelled_dispatch(execution: SagaExecution, path: Path) -> SagaExecution:
    """The execution with the unclaimed message of a step made stale.

    A request without a reply is not waited for any longer: its outcome is unknown.
    """
    step = execution.steps[path]
    if step.reply_status == SagaResponseStatus.SUCCESS:  # only its handler is left out
        return execution.ended(path, not_before=None, status=StepStatus.SUCCEEDED)
    status = StepStatus.FAILED if step.error else StepStatus.PENDING
    execution = execution.ended(path, not_before=None)
    return without_result(execution, path, StepStatus.UNKNOWN if step.effect else status)


def _compensate_next(execution: SagaExecution, at: float) -> Decision:
    decision = Decision(execution)
    while not _is_stopped(decision.execution):
        ready = decision.execution.next_compensations
        if not ready:
            break
        if execution.status is SagaStatus.PAUSED:
            return decision
        for path in ready:
            decision = decision.then(_compensate, path, at)
            if decision.execution.steps[path].status is StepStatus.COMPENSATION_FAILED:
                break  # what is next has changed
        else:
            return decision
    if decision.execution.active:
        return decision
    return decision.then(_end_of_rollback, at)


def _is_stopped(execution: SagaExecution) -> bool:
    """Whether a compensation has failed in a saga that does not run the others then."""
    if execution.plan.on_compensation_failure != "stop":
        return False
    failed = StepStatus.COMPENSATION_FAILED
    return any(execution.steps[path].status is failed for path in execution.journal)


def _compensate(execution: SagaExecution, path: Path, at: float) -> Decision:
    """Send a compensation; if it lacks an input, it has failed."""
    step = execution.steps[path]
    if step.status is not StepStatus.COMPENSATING:
        execution = execution.with_step(path, attempts=0, lost=0, revised=None, request=None)
    elif step.not_before is not None and at < step.not_before:
        return wait(execution, path, step.not_before)
    call = call_of(execution, path, Direction.COMPENSATION)
    key = call.missing(execution.inputs_of(path, Direction.COMPENSATION))
    if key is None:
        return send(execution, path, Direction.COMPENSATION, at)
    failure = missing_input(execution, path, key, call)
    return Decision(_with_failed_compensation(execution, path, failure))


def compensated(execution: SagaExecution, path: Path, at: float) -> Decision:
    """A compensation returned; an effect that was reported meanwhile needs another round."""
    step = execution.steps[path]
    again = step.late_effect
    execution = execution.ended(
        path,
        status=StepStatus.COMPENSATED,
        revised=None,
        request=None,
        effect=again,
        late_effect=False,
        compensation_round=step.compensation_round + again,
        compensation_error=None,
    )
    return continue_rollback(execution, at)


def compensation_failed(
    execution: SagaExecution, path: Path, failure: Failure, at: float
) -> Decision:
    """A compensation has failed for good: that is kept, and the others are run all the same."""
    return continue_rollback(_with_failed_compensation(execution, path, failure), at)


def _with_failed_compensation(
    execution: SagaExecution, path: Path, failure: Failure
) -> SagaExecution:
    return execution.ended(
        path, status=StepStatus.COMPENSATION_FAILED, not_before=None, compensation_error=failure
    )


def _end_of_rollback(execution: SagaExecution, at: float) -> Decision:
    for step in execution.steps:
        if step.status is StepStatus.COMPENSATION_FAILED and step.effect:
            failure = step.compensation_error or Failure("", "its compensation failed", step.name)
            return stuck(execution, failure, at)
    unresolved = execution.unresolved()
    if unresolved is not None:
        return stuck(execution, unknown_effect(unresolved), at)
    return end(execution, SagaStatus.COMPENSATED, at)


def unknown_effect(step: SagaStepExecution) -> Failure:
    """Why a saga is stuck that has compensated everything but a step which has no compensation."""
    text = f"step {step.name!r} may have taken effect, and it has no compensation"
    return Failure("EffectUnknown", f"{text} ({step.error})" if step.error else text, step.name)
