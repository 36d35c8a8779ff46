"""What a saved change is to those who watch: its transitions, and the fields of log records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celery_saga.core.events import Alert, Subject, Transition
from celery_saga.core.execution import SagaExecution, SagaStepExecution, StepRef, StepStatus
from celery_saga.core.plan import Path
from celery_saga.core.steps import Steps

#: What becomes of an attempt: a worker claims the step, and its claim ends.
CLAIMED, ENDED = "claimed", "ended"


def attempt_of(step: SagaStepExecution) -> int:
    """The number of a step's attempt, from 1: all that were before it count."""
    return 1 + step.retries + step.attempts + step.lost


def log_fields(saga_id: str, name: str = "", step: str = "", attempt: int = 0) -> dict[str, Any]:
    """The fields that every log record has, for ``extra=``; empty and 0: not known, or none."""
    return {"saga_id": saga_id, "saga_name": name, "step": step, "attempt": attempt}


def fields_of(execution: SagaExecution, ref: StepRef | None = None) -> dict[str, Any]:
    """The same, of a saga and perhaps a step of it."""
    if ref is None:
        return log_fields(execution.saga_id, execution.name)
    step = execution.steps[ref.path]
    return log_fields(execution.saga_id, execution.name, step.name, attempt_of(step))


def alerted(execution: SagaExecution, alert: Alert, ref: StepRef | None = None) -> Transition:
    """An alert, in the form that observers get."""
    step = None if ref is None else execution.steps[ref.path]
    attempt = 0 if step is None else attempt_of(step)
    name = "" if step is None else step.name
    return Transition(Subject.ALERT, execution, name, attempt, after=alert.name, text=alert.text)


def claimed_by(execution: SagaExecution, ref: StepRef) -> Transition:
    """A claim that was granted, in the form that observers get."""
    step = execution.steps[ref.path]
    return Transition(Subject.ATTEMPT, execution, step.name, attempt_of(step), after=CLAIMED)


def transitions(
    before: SagaExecution | None, after: SagaExecution, settles: bool = False
) -> list[Transition]:
    """What a save has changed: attempts and steps that ended, then others, then the saga.

    Args:
        before: what was read; ``None``: the saga is new.
        after: what was saved. Records that are the same object are the same.
        settles: whether the saga settled with it, be it in the status that it had.
    """
    ended: list[Transition] = []
    others: list[Transition] = []
    olds = Steps(after.plan, {}) if before is None else before.steps
    changed = {path for path, new in after.steps.items() if new is not olds.known(path)}
    for path in sorted(changed):
        old, new = olds.known(path), after.steps[path]
        found = ended if old is not None and old.claim is not None else others
        found += _of_step(after, old, new, _attempt(before, after, path))
    was = None if before is None else before.status
    if settles or was is not after.status:
        old_status = "" if was is None else was.value
        last = Transition(Subject.SAGA, after, before=old_status, after=after.status.value)
        return [*ended, *others, last]
    return ended + others


def _attempt(before: SagaExecution | None, after: SagaExecution, path: Path) -> int:
    """The attempt that a change of a step concerns: the one that was out, else the one that is.

    The count of Celery's retries is kept only while a message is out.
    """
    for execution in (before, after):
        if execution is not None and execution.ref(path) is not None:
            return attempt_of(execution.steps[path])
    return 0


def _of_step(
    execution: SagaExecution,
    old: SagaStepExecution | None,
    new: SagaStepExecution,
    attempt: int,
) -> Iterator[Transition]:
    if old is not None and old.claim is not None and new.claim != old.claim:
        yield Transition(Subject.ATTEMPT, execution, new.name, attempt, CLAIMED, ENDED)
    was = StepStatus.PENDING if old is None else old.status
    if new.status is not was:
        yield Transition(Subject.STEP, execution, new.name, attempt, was.value, new.status.value)


def fields_of_transition(transition: Transition) -> Mapping[str, Any]:
    """The fields of a log record about a transition."""
    execution = transition.execution
    return log_fields(execution.saga_id, execution.name, transition.step, transition.attempt)
