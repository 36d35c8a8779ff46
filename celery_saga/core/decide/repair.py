"""What holds a saga up, and what an operator can do about it. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from celery_saga.core.decide.operators import awaited, retryable
from celery_saga.core.decide.rollback import unknown_effect
from celery_saga.core.decide.transitions import name_of_current, past_pivot
from celery_saga.core.execution import Direction, SagaExecution, SagaStatus, StepStatus


@dataclass(frozen=True)
class Obstacle:
    """What a saga failed of, or is stuck at.

    Args:
        step: the step's name; empty if none did it.
        cause: type and text of the error, as recorded.
    """

    step: str
    cause: str


def obstacle_of(execution: SagaExecution) -> Obstacle | None:
    """What keeps a stuck saga from its end, or why one is rolled back; ``None``: nothing."""
    if execution.status is SagaStatus.STUCK:
        return _of_a_stuck_saga(execution)
    error = execution.error or execution.rollback_reason
    return Obstacle(error.step, str(error)) if error else None


def _of_a_stuck_saga(execution: SagaExecution) -> Obstacle:
    for step in execution.steps:
        if step.status is StepStatus.COMPENSATION_FAILED and step.compensation_error is not None:
            cause = f"its compensation failed: {step.compensation_error}"
            if execution.error is not None:
                cause += f" (after {execution.error})"
            return Obstacle(step.name, cause)
    unresolved = execution.unresolved() if execution.direction is Direction.COMPENSATION else None
    if unresolved is not None:
        return Obstacle(unresolved.name, unknown_effect(unresolved).message)
    name = name_of_current(execution)
    if execution.direction is Direction.FORWARD and execution.error is not None:
        name = execution.error.step or name
    return Obstacle(name, str(execution.error or ""))


#: A verb of the command line, with the arguments that follow the saga's id, and what it does.
Repair = tuple[str, str]


def repairs_of(execution: SagaExecution) -> tuple[Repair, ...]:
    """The verbs that apply to a saga as it is now, the most likely first."""
    if execution.status is SagaStatus.PAUSED:
        return (("resume", "continue"), *_back(execution))
    if execution.status is SagaStatus.RUNNING and execution.rollback_reason is None:
        names = (shlex.quote(name) for _, name in awaited(execution))
        return tuple((f"signal {name}", "end the wait for it; --payload JSON") for name in names)
    if execution.status is not SagaStatus.STUCK:
        return ()
    what = "step" if execution.direction is Direction.FORWARD else "compensation"
    again = (("retry", f"run the {what} again; --set KEY=JSON corrects the context first"),)
    return (
        *(again if retryable(execution) else ()),
        ("skip", "it was dealt with by hand: continue behind it"),
        ("resolve --as COMPLETED", "all was done by hand"),
        ("resolve --as COMPENSATED", "all was compensated by hand"),
        *_back(execution),
    )


def _back(execution: SagaExecution) -> tuple[Repair, ...]:
    if execution.direction is not Direction.FORWARD or past_pivot(execution):
        return ()
    return (("cancel", "compensate what was done"),)


def command_of(verb: str, saga_id: str, app: str = "proj") -> str:
    """What is to be typed for a verb; ``app`` is what goes behind ``-A``."""
    name, _, options = verb.partition(" ")
    first = f"celery -A {shlex.quote(app)} saga {name}"
    # An id may begin as an option does.
    words = (first, options, "--", saga_id) if saga_id[:1] == "-" else (first, saga_id, options)
    return " ".join(filter(None, words))
