"""Taking in an execution that was exported from another store."""

from __future__ import annotations

import uuid

from celery_saga.core.decide import decide
from celery_saga.core.events import ClaimVoided
from celery_saga.core.execution import SagaExecution, evolved
from celery_saga.core.ports import Store
from celery_saga.errors import SagaAlreadyExists


def take_in(store: Store, execution: SagaExecution) -> SagaExecution:
    """Save ``execution`` under its own id, as it will be from now on.

    One that is on its way goes on here. A message that it had sent elsewhere is sent again, and of
    a step that was running when it was exported the outcome is unknown: the step is run again or
    undone, as the plan says. So it must not be on its way anywhere else any more.

    Raises:
        SagaAlreadyExists: the store has a saga with this id, which stays as it is.
    """
    at = store.now()
    execution = _without_claims(execution, at)
    if not execution.settled:
        execution = _without_messages(evolved(execution, due_at=at), at)
    saved, created = store.create(execution, uuid.uuid4().hex)
    if not created:
        raise SagaAlreadyExists(execution.saga_id, saved.name)
    return saved


def _without_claims(execution: SagaExecution, at: float) -> SagaExecution:
    for index, step in enumerate(execution.steps):
        slot = execution.slot(index)
        if step.claim is not None and slot is not None:
            execution = decide(execution, ClaimVoided(at, slot, step.claim.token)).execution
    return execution


def _without_messages(execution: SagaExecution, at: float) -> SagaExecution:
    """Overdue, so that the first look sends it again; a retry of Celery's keeps its time."""
    step = execution.steps[execution.position]
    if step.outstanding is None or (step.expected_at or 0.0) > at:
        return execution
    return execution.with_step(execution.position, expected_at=0.0)
