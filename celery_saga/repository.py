"""The saved executions of an app, in the shape of the Minos framework's repository."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

from celery import Celery

from celery_saga.core.decide import decide
from celery_saga.core.events import ClaimVoided
from celery_saga.core.execution import SagaExecution
from celery_saga.core.ports import Store
from celery_saga.errors import SagaAlreadyExists, SagaExecutionNotFoundException
from celery_saga.worker.set_up import enabled


class SagaExecutionRepository:
    """The saved executions, in the shape of the Minos framework's repository.

    Args:
        app: a Celery app with a :class:`SagaManager`.
    """

    def __init__(self, app: Celery) -> None:
        self._runtime = enabled(app)

    async def store(self, execution: SagaExecution) -> None:
        """Import an execution that was exported elsewhere; see :meth:`SagaExecution.from_raw`.

        It must not run anywhere else any more. It continues here, and the outcome of a step that
        was running at the export is unknown.

        Raises:
            SagaAlreadyExists: its id is taken; the stored saga is unchanged.
        """
        await asyncio.to_thread(import_execution, self._runtime.store, execution)

    async def load(self, saga_id: str | uuid.UUID) -> SagaExecution:
        """Return the execution as it was saved last.

        Raises:
            SagaExecutionNotFoundException: no saga has this id.
        """
        return await asyncio.to_thread(self._runtime.orchestrator.load, str(saga_id))

    async def delete(self, saga_id: str | uuid.UUID | SagaExecution) -> None:
        """Delete an execution.

        Raises:
            SagaExecutionNotFoundException: no saga has this id.
        """
        key = saga_id.saga_id if isinstance(saga_id, SagaExecution) else str(saga_id)
        if not await asyncio.to_thread(self._runtime.store.delete, key):
            raise SagaExecutionNotFoundException(key)


def import_execution(store: Store, execution: SagaExecution) -> SagaExecution:
    """Save ``execution`` under its own id, and return it as it is saved.

    An execution that has not ended continues here. A message that it had sent elsewhere is sent
    again. The outcome of a step that was running at the export is unknown: the step is run again or
    compensated, as the plan says. So the execution must not run anywhere else any more.

    Raises:
        SagaAlreadyExists: its id is taken; the stored saga is unchanged.
    """
    at = store.now()
    execution = _without_claims(execution, at)
    if not execution.settled:
        execution = _without_messages(replace(execution, due_at=at), at)
    saved, created = store.create(execution, uuid.uuid4().hex)
    if not created:
        raise SagaAlreadyExists(execution.saga_id, saved.name)
    return saved


def _without_claims(execution: SagaExecution, at: float) -> SagaExecution:
    for path, step in list(execution.steps.items()):
        ref = execution.ref(path)
        if step.claim is not None and ref is not None:
            execution = decide(execution, ClaimVoided(at, ref, step.claim.token)).execution
    return execution


def _without_messages(execution: SagaExecution, at: float) -> SagaExecution:
    """Mark its messages as overdue, so that the first check sends them again, except retries."""
    for ref in execution.active:
        if (execution.steps[ref.path].expected_at or 0.0) <= at:
            execution = execution.with_step(ref.path, expected_at=0.0)
    return execution
