"""The moves that all transitions are made of: send a step, go forward, go back, end.

Going forward and going back are one idea with two answers to "which step is next".
"""

from __future__ import annotations

from dataclasses import replace

from celery_saga.core.context.data import values_of
from celery_saga.core.events import Command, Decision, Dispatch, NotifyCallers, StepSucceeded
from celery_saga.core.execution import (
    Direction,
    Failure,
    Note,
    SagaExecution,
    SagaStatus,
    SagaStepExecution,
    StepRef,
    StepStatus,
)
from celery_saga.core.plan import Call
from celery_saga.core.recovery.policy import POLICY
from celery_saga.errors import needs

#: Seconds from one check of a live saga to the next; the second figure: while its step runs.
CHECK_INTERVAL, CLAIMED_CHECK_INTERVAL = POLICY.check_interval, POLICY.claimed_check_interval

#: The least seconds from one start of a step to the next once it was lost twice, doubling with each
#: further loss up to the second figure.
LOST_DELAY, LOST_DELAY_MAX = POLICY.lost_delay, POLICY.lost_delay_max


def call_of(execution: SagaExecution, index: int, direction: Direction) -> Call:
    """The task of step ``index`` in ``direction``; undos are only asked for where there is one.

    As its retries have changed it, if it is that direction in which the step is being run.
    """
    step = execution.plan.steps[index]
    call = step.action if direction is Direction.FORWARD else step.compensation
    assert call is not None
    record = execution.steps[index]
    if record.revised is None or (record.forward_epoch > 0) is (direction is Direction.FORWARD):
        return call
    return call.revised(record.revised)


def noted(
    execution: SagaExecution, at: float, what: str, by: str = "", detail: str = ""
) -> SagaExecution:
    """The execution with one more line of history, which may not have been read."""
    more = (Note(at, what, by, detail),)
    return replace(execution, history=execution.history + more)


def check_at(execution: SagaExecution, when: float) -> SagaExecution:
    """Due for a check at ``when``, or at the deadline if that comes first."""
    deadline = execution.deadline
    return replace(execution, due_at=when if deadline is None else min(when, deadline))


def due_soon(execution: SagaExecution, at: float) -> SagaExecution:
    """Due for a check as soon as one that waits for a message; an earlier check stays."""
    if execution.due_at is not None and execution.due_at <= at + CHECK_INTERVAL:
        return execution
    return check_at(execution, at + CHECK_INTERVAL)


def past_pivot(execution: SagaExecution) -> bool:
    """Whether the pivot was dispatched: from then on there is no way back."""
    pivot = execution.plan.pivot
    return pivot is not None and execution.steps[pivot].epoch > 0


def with_result(execution: SagaExecution, event: StepSucceeded) -> SagaExecution:
    """The execution with what a step did to its context.

    What the compensations of other steps read stays what it was for them: a value that is replaced
    or removed is kept in their records, if they may still run. Most changes concern none of them,
    and nothing else of the saga is looked at then.
    """
    ref, readers = event.ref, execution.plan.readers
    changed = [*event.update, *event.remove]
    for key in changed:
        for index in readers.get(key, ()):
            if index != ref.step and _may_be_compensated(execution, index, event):
                execution = _keeping(execution, index, key, event)
    return execution.with_values(event.update, event.remove)


def own_result(execution: SagaExecution, event: StepSucceeded) -> dict[str, str | None]:
    """What a step's compensation reads of a result that may not be in the context any more."""
    reads = execution.plan.steps[event.ref.step].compensation_reads
    update = values_of(event.update)
    merged = {key: update.text(key) for key in reads if key in update}
    return {**merged, **values_of(event.own).texts()}


def _may_be_compensated(execution: SagaExecution, index: int, event: StepSucceeded) -> bool:
    """Whether a step's compensation may run after what another step reports."""
    if execution.direction is Direction.FORWARD:
        pivot = execution.plan.pivot
        return index < event.ref.step and (pivot is None or event.ref.step < pivot)
    return execution.steps[index].epoch > 0


def _keeping(execution: SagaExecution, index: int, key: str, event: StepSucceeded) -> SagaExecution:
    values, kept = values_of(execution.values), execution.steps[index].kept or {}
    old = values.text(key) if key in values else None
    new = values_of(event.update).text(key) if key in event.update else None
    if key in kept or old == new:
        return execution
    return execution.with_step(index, kept={**kept, key: old})


def send(execution: SagaExecution, index: int, direction: Direction, at: float) -> Decision:
    """Dispatch a step in a new epoch; its inputs are known to be there."""
    step = execution.steps[index]
    forward = direction is Direction.FORWARD
    ref = StepRef((index,), direction, step.epoch + 1)
    execution = execution.sent(
        ref,
        status=StepStatus.RUNNING if forward else StepStatus.COMPENSATING,
        forward_epoch=0 if forward else step.forward_epoch or step.epoch,
        retries=0,
        expected_at=at,
        republished=0,
        unclaimed=0,
        not_before=None,
        task_unknown_since=None,
        started_at=step.started_at if step.started_at is not None else at,
    )
    return Decision(due_soon(execution, at), (Dispatch(ref),))


def run_again(
    execution: SagaExecution, index: int, direction: Direction, at: float, began: float
) -> Decision:
    """Send a step once more whose outcome stayed unknown: at once the first time, then slower.

    Args:
        began: when the attempt that was lost started, store time.
    """
    if direction is Direction.FORWARD:
        execution = execution.with_step(index, status=StepStatus.WAITING)
    until = min(began, at) + _pace(execution.steps[index].lost)
    if until > at:
        return wait(execution, index, until)
    if execution.status is SagaStatus.PAUSED:
        return Decision(execution)
    return send(execution, index, direction, at)


def _pace(lost: int) -> float:
    return 0.0 if lost < 2 else min(LOST_DELAY_MAX, LOST_DELAY * 2.0 ** min(lost - 2, 30))


def wait(execution: SagaExecution, index: int, until: float) -> Decision:
    """Nothing is sent before ``until``; the sweep sends it then."""
    execution = execution.ended(index, not_before=until)
    due = until if execution.due_at is None else min(until, execution.due_at)
    return Decision(check_at(execution, due))


def resume_forward(execution: SagaExecution, at: float) -> Decision:
    """Send the step that waits for its time, or the next one."""
    index = execution.current
    if index is None:
        return go_forward(execution, len(execution.steps), at)
    if execution.steps[index].status is StepStatus.WAITING and execution.rollback_reason is None:
        return send(execution, index, Direction.FORWARD, at)
    return go_forward(execution, index, at)


def go_forward(execution: SagaExecution, index: int, at: float) -> Decision:
    """On to step ``index``, or to the end, or back if that was asked for meanwhile."""
    if execution.rollback_reason is not None:
        return continue_rollback(execution, at)
    if index == len(execution.steps):
        return end(execution, SagaStatus.COMPLETED, at)
    if execution.deadline is not None and at >= execution.deadline and not past_pivot(execution):
        return start_rollback(execution, deadline_failure(execution.plan.steps[index].name), at)
    if execution.status is SagaStatus.PAUSED:
        return Decision(execution)
    execution = replace(execution, status=SagaStatus.RUNNING)
    call = call_of(execution, index, Direction.FORWARD)
    key = call.missing(execution.values)
    if key is None:
        return send(execution, index, Direction.FORWARD, at)
    failure = missing_input(execution, index, key, call)
    execution = execution.ended(index, status=StepStatus.FAILED, error=failure, ended_at=at)
    if past_pivot(execution):
        return stuck(execution, failure, at)
    return start_rollback(execution, failure, at)


def deadline_failure(name: str) -> Failure:
    """The record of a deadline that passed before the step of that name ended."""
    return Failure("DeadlineExceeded", f"the deadline passed before step {name!r} ended", name)


def name_of_current(execution: SagaExecution) -> str:
    """The name of the step at which the run is; empty: there is none."""
    index = execution.current
    return "" if index is None else execution.plan.steps[index].name


def missing_input(execution: SagaExecution, index: int, key: str, call: Call) -> Failure:
    """The record of an input that the context lacks."""
    name = execution.steps[index].name
    text = f"task {call.task!r} of step {name!r} {needs(key)}"
    return Failure("celery_saga.errors.MissingInput", text, name)


def start_rollback(execution: SagaExecution, failure: Failure, at: float) -> Decision:
    """The way forward is over because of ``failure``, or of what was asked for before it."""
    error = execution.error or execution.rollback_reason or failure
    return continue_rollback(
        replace(execution, rollback_reason=execution.rollback_reason or failure, error=error), at
    )


def continue_rollback(execution: SagaExecution, at: float) -> Decision:
    """Undo the last effect that stands; with none left the saga is over."""
    status = execution.status
    if status is not SagaStatus.PAUSED:
        status = SagaStatus.COMPENSATING
    execution = replace(
        execution,
        status=status,
        direction=Direction.COMPENSATION,
        error=execution.error or execution.rollback_reason,
        deadline=None,
    )
    while (index := execution.next_compensation) is not None:
        if status is SagaStatus.PAUSED:
            return Decision(execution)
        step = execution.steps[index]
        if step.status is not StepStatus.COMPENSATING:
            execution = execution.with_step(index, attempts=0, lost=0, revised=None)
        elif step.not_before is not None and at < step.not_before:
            return wait(execution, index, step.not_before)  # a late effect was undone meanwhile
        call = call_of(execution, index, Direction.COMPENSATION)
        key = call.missing(execution.inputs_of(index, Direction.COMPENSATION))
        if key is None:
            return send(execution, index, Direction.COMPENSATION, at)
        failure = missing_input(execution, index, key, call)
        execution = _with_failed_compensation(execution, index, failure)
    return _end_of_rollback(execution, at)


def compensation_failed(
    execution: SagaExecution, index: int, failure: Failure, at: float
) -> Decision:
    """An undo failed for good: keep it, and undo the others all the same."""
    return continue_rollback(_with_failed_compensation(execution, index, failure), at)


def with_possible_effect(execution: SagaExecution, index: int, began: bool) -> SagaExecution:
    """The execution with a step whose effect may be there, if it ``began`` and leaves any."""
    step = execution.steps[index]
    possible = began and not execution.plan.steps[index].read_only
    return execution.with_step(index, effect=step.effect or possible)


def _with_failed_compensation(
    execution: SagaExecution, index: int, failure: Failure
) -> SagaExecution:
    return execution.ended(
        index, status=StepStatus.COMPENSATION_FAILED, not_before=None, compensation_error=failure
    )


def _end_of_rollback(execution: SagaExecution, at: float) -> Decision:
    for step in execution.steps:
        if step.status is StepStatus.COMPENSATION_FAILED and step.effect:
            failure = step.compensation_error or Failure("", "its undo failed", step.name)
            return stuck(execution, failure, at)
    unresolved = execution.unresolved()
    if unresolved is not None:
        return stuck(execution, unknown_effect(unresolved), at)
    return end(execution, SagaStatus.COMPENSATED, at)


def unknown_effect(step: SagaStepExecution) -> Failure:
    """Why a saga is stuck that has undone everything but a step which it cannot undo."""
    text = f"step {step.name!r} may have taken effect, and it has no compensation"
    return Failure("EffectUnknown", f"{text} ({step.error})" if step.error else text, step.name)


def stuck(execution: SagaExecution, failure: Failure, at: float) -> Decision:
    """A person is needed; both the first error and what holds it up are kept."""
    execution = replace(
        execution, error=execution.error or failure, stuck_count=execution.stuck_count + 1
    )
    execution = noted(execution, at, "stuck", detail=f"{failure.step}: {failure}")
    return end(execution, SagaStatus.STUCK, at)


def end(execution: SagaExecution, status: SagaStatus, at: float) -> Decision:
    """Settled: waiters are told; it is looked at until its result is known to be stored."""
    pending = execution.wants_result or execution.callbacks is not None
    execution = replace(
        execution,
        status=status,
        due_at=at + CHECK_INTERVAL if pending else None,
        deadline=None,
        updated_at=at,
        result_pending=pending,
    )
    commands: tuple[Command, ...] = (NotifyCallers(status),)
    return Decision(execution, commands)
