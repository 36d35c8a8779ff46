"""What a transition means outside of the engine: the notice that signals and events carry. Pure."""

from __future__ import annotations

from typing import NamedTuple

from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.decide.repair import obstacle_of
from celery_saga.core.events import Subject, Transition
from celery_saga.core.execution import SagaExecution, SagaStatus, StepStatus


class Notice(NamedTuple):
    """One change of a saga, in plain values.

    Args:
        name: ``"saga-step-failed"``: the type of the event, and with ``_`` the signal's name.
        saga_id: the saga's id.
        saga_name: its name.
        step: the step's name; empty: it concerns none.
        attempt: its attempt, from 1; 0: it concerns none.
        status: of the saga or step, now; of an alert the saga's.
        reason: type and text of an error, or the alert's text; empty: none.
    """

    name: str
    saga_id: str
    saga_name: str
    step: str = ""
    attempt: int = 0
    status: str = ""
    reason: str = ""


#: Of a saga, by its new status.
_OF_SAGAS = {
    SagaStatus.COMPENSATING.value: "saga-compensating",
    SagaStatus.COMPLETED.value: "saga-completed",
    SagaStatus.COMPENSATED.value: "saga-compensated",
    SagaStatus.STUCK.value: "saga-stuck",
}
#: Of a step.
_OF_STEPS = {
    StepStatus.SUCCEEDED.value: "saga-step-succeeded",
    StepStatus.FAILED.value: "saga-step-failed",
    StepStatus.UNKNOWN.value: "saga-step-failed",
    StepStatus.COMPENSATION_FAILED.value: "saga-step-failed",
}
#: Alerts that have a notice of their own.
_ALERTS = ("saga-orphan-effect", "saga-deadline")
#: The names of notices that need no details of a saga: its ends, and alerts.
WITHOUT_DETAILS = frozenset({"saga-completed", "saga-compensated", "saga-stuck", *_ALERTS})
#: The names of all notices.
NAMES = frozenset({"saga-started", *_OF_SAGAS.values(), *_OF_STEPS.values(), *_ALERTS})


def notice_of(transition: Transition) -> Notice | None:
    """Return the notice of a transition; ``None``: it has none."""
    name = _name_of(transition)
    if name is None:
        return None
    execution, step = transition.execution, transition.step
    status, reason = transition.after, transition.text
    if transition.subject is Subject.ALERT:
        status = execution.status.value
    elif transition.subject is Subject.STEP and name == "saga-step-failed":
        reason = _error_of(execution, step)
    elif transition.subject is Subject.SAGA and name not in ("saga-started", "saga-completed"):
        step, reason = _obstacle(execution)
    saga_id, attempt = execution.saga_id, transition.attempt
    return Notice(name, saga_id, execution.name, step, attempt, status, reason)


def _name_of(transition: Transition) -> str | None:
    after = transition.after
    if transition.subject is Subject.SAGA:
        return _OF_SAGAS.get(after) if transition.before else "saga-started"
    if transition.subject is Subject.STEP:
        return _OF_STEPS.get(after)
    return after if transition.subject is Subject.ALERT and after in _ALERTS else None


def _obstacle(execution: SagaExecution) -> tuple[str, str]:
    """The step that an end or a rollback is due to, and its error, as far as they were read."""
    try:
        found = obstacle_of(execution)
    except NotLoaded:
        error = execution.error or execution.rollback_reason
        return (error.step, str(error)) if error else ("", "")
    return (found.step, found.cause) if found else ("", "")


def _error_of(execution: SagaExecution, name: str) -> str:
    """The error of a step, as far as it was read."""
    try:
        found = (step for step in execution.steps if step.name == name)
        return next((str(it.compensation_error or it.error or "") for it in found), "")
    except NotLoaded:
        return ""
