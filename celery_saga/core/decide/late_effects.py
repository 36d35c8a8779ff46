"""The late effect: a forward task reports success, or a possible effect, without having the say.

It changes nothing, except that its effect is now known. If the step was compensated, or is being
compensated, that is done again in a new round. This is the only edge out of a terminal status
besides an operator's verb.
"""

from __future__ import annotations

from celery_saga.core.decide.rollback import continue_rollback
from celery_saga.core.decide.transitions import (
    CHECK_INTERVAL,
    check_at,
    noted,
    own_result,
    with_result,
)
from celery_saga.core.events import Alert, Decision, StepFailed, StepSucceeded
from celery_saga.core.execution import Direction, SagaExecution, SagaStatus, StepStatus
from celery_saga.core.state import replace

_COMPENSATION_BEGAN = frozenset(
    {StepStatus.COMPENSATING, StepStatus.COMPENSATED, StepStatus.COMPENSATION_FAILED}
)


def late_effect(execution: SagaExecution, event: StepSucceeded | StepFailed) -> Decision:
    """Take note of an effect, known or possible, whose report is not waited for."""
    ref = event.ref
    step = execution.at_step(ref)
    if step is None or ref.direction is Direction.COMPENSATION or ref.epoch > step.epoch:
        return Decision(execution)
    if not event.token or event.token in step.effect_tokens:
        return Decision(execution)
    if execution.plan.step(ref.path).read_only:
        return Decision(execution)
    unsettled = execution.status is not SagaStatus.COMPLETED
    by_hand = step.status is StepStatus.SKIPPED or not unsettled
    if execution.direction is Direction.FORWARD and not by_hand:
        # The step will be run again, or has been, under the same key. Should the new attempt
        # decline cleanly, this effect still has to be compensated.
        return Decision(_counted(execution, event)) if unsettled else Decision(execution)
    if by_hand:
        return _after_an_operator(execution, event)
    if execution.plan.step(ref.path).compensation is None:
        # Nothing can be compensated, and the possible effect is known: a copy says nothing new.
        return Decision(
            execution.with_step(ref.path, effect_tokens=(*step.effect_tokens, event.token))
        )
    execution = _counted(execution, event)
    if isinstance(event, StepSucceeded) and step.status is not StepStatus.SUCCEEDED:
        execution = _with_own_result(execution, event)
    if step.effect and step.status not in _COMPENSATION_BEGAN:
        return Decision(execution)  # its compensation is still to come
    return _compensate_again(execution, event)


def _with_own_result(execution: SagaExecution, event: StepSucceeded) -> SagaExecution:
    """Its compensation, which had to do without its result, has it from now on."""
    kept = {**(execution.steps[event.ref.path].kept or {}), **own_result(execution, event)}
    return execution.with_step(event.ref.path, kept=kept or None)


def _counted(execution: SagaExecution, event: StepSucceeded | StepFailed) -> SagaExecution:
    step = execution.steps[event.ref.path]
    return execution.with_step(
        event.ref.path, effect=True, effect_tokens=(*step.effect_tokens, event.token)
    )


def _after_an_operator(execution: SagaExecution, event: StepSucceeded | StepFailed) -> Decision:
    """An operator has said how the step or the saga ended: alert one, change nothing else."""
    step = execution.steps[event.ref.path]
    if step.status is not StepStatus.SKIPPED and execution.resolved_at is None:
        return Decision(execution)  # it completed by itself
    execution = execution.with_step(
        event.ref.path, effect_tokens=(*step.effect_tokens, event.token)
    )
    execution = noted(execution, event.at, "late effect", detail=step.name)
    text = f"saga {execution.saga_id}: step {step.name!r} took effect after an operator settled it"
    return Decision(execution, (Alert("saga-orphan-effect", text),))


def _compensate_again(execution: SagaExecution, event: StepSucceeded | StepFailed) -> Decision:
    path = event.ref.path
    step = execution.steps[path]
    ref = execution.ref(path)
    in_flight = ref is not None and ref.direction is Direction.COMPENSATION
    began = step.status in _COMPENSATION_BEGAN
    if isinstance(event, StepSucceeded):
        execution = with_result(execution, event)
    execution = execution.with_step(
        path,
        late_effect=in_flight,
        compensation_round=step.compensation_round + (began and not in_flight),
    )
    execution = noted(execution, event.at, "late effect", detail=step.name)
    if execution.status is not SagaStatus.COMPENSATED:
        return Decision(execution)  # the rollback comes to it, or the saga is stuck and stays so
    execution = replace(execution, status=SagaStatus.COMPENSATING)
    return continue_rollback(check_at(execution, event.at + CHECK_INTERVAL), event.at)
