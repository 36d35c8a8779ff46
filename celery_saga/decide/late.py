"""The late effect: a forward task reports success when it no longer has the say.

It changes nothing, except that its effect is now known. If the step was undone, or is being undone,
it is undone again in a new round. This is the only edge out of a terminal status besides an
operator's verb.
"""

from __future__ import annotations

from dataclasses import replace

from celery_saga.decide.events import Alert, Decision, StepSucceeded
from celery_saga.decide.moves import LOOK_AGAIN, go_back, look_at, noted
from celery_saga.execution import Direction, SagaExecution, SagaStatus, StepStatus

_UNDO_BEGAN = frozenset(
    {StepStatus.COMPENSATING, StepStatus.COMPENSATED, StepStatus.COMPENSATION_FAILED}
)


def late_effect(execution: SagaExecution, event: StepSucceeded) -> Decision:
    """Take note of an effect whose report nobody waits for."""
    slot = event.slot
    step = execution.at_step(slot)
    if step is None or slot.direction is Direction.BACKWARD or slot.epoch > step.epoch:
        return Decision(execution)
    if execution.direction is Direction.FORWARD:
        # The step will be run again, or has been, under the same key. Should the new attempt
        # decline cleanly, this effect still has to be undone.
        return Decision(execution if step.effect else execution.with_step(slot.step, effect=True))
    if execution.status is SagaStatus.COMPLETED or step.status is StepStatus.SKIPPED:
        return _told(execution, event)  # an operator has spoken
    if execution.plan.steps[slot.step].compensation is None:
        return Decision(execution)
    if step.effect and step.status not in _UNDO_BEGAN:
        return Decision(execution)  # its undo is still to come
    return _reopen(execution, event)


def _told(execution: SagaExecution, event: StepSucceeded) -> Decision:
    name = execution.steps[event.slot.step].name
    execution = noted(execution, event.at, "late effect", detail=name)
    text = f"saga {execution.saga_id}: step {name!r} took effect after an operator settled it"
    return Decision(execution, (Alert("saga-orphan-effect", text),))


def _reopen(execution: SagaExecution, event: StepSucceeded) -> Decision:
    index = event.slot.step
    step = execution.steps[index]
    in_flight = step.outstanding is Direction.BACKWARD
    if in_flight and step.reopened:
        return Decision(execution)
    began = step.status in _UNDO_BEGAN
    execution = replace(execution, values={**execution.values, **event.update})
    execution = execution.with_step(
        index,
        effect=True,
        reopened=in_flight,
        undo_round=step.undo_round + (began and not in_flight),
    )
    execution = noted(execution, event.at, "late effect", detail=step.name)
    if execution.status is not SagaStatus.COMPENSATED:
        return Decision(execution)  # the unwind comes by, or the saga is stuck and stays so
    execution = replace(execution, status=SagaStatus.COMPENSATING)
    return go_back(look_at(execution, event.at + LOOK_AGAIN), event.at)
