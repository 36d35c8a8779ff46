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
from celery_saga.runtime import Runtime, install
from celery_saga.worker.hook import verify
from celery_saga.worker.set_up import set_up


class SagaExecutionRepository:
    """The saved executions, in the shape of the Minos framework's repository.

    Args:
        app: a Celery app with a :class:`SagaManager`.
    """

    def __init__(self, app: Celery) -> None:
        self._runtime: Runtime = install(app, None, set_up, verify)

    async def store(self, execution: SagaExecution) -> None:
        """Take in an execution that was exported elsewhere; see :meth:`SagaExecution.from_raw`.

        It must not be on its way anywhere else any more: it goes on here, with a step that was
        running then as one whose outcome is unknown.

        Raises:
            SagaAlreadyExists: there is one with its id, which stays as it is.
        """
        await asyncio.to_thread(take_in, self._runtime.store, execution)

    async def load(self, saga_id: str | uuid.UUID) -> SagaExecution:
        """The execution as it was saved last.

        Raises:
            SagaExecutionNotFoundException: there is none with this id.
        """
        return await asyncio.to_thread(self._runtime.orchestrator.load, str(saga_id))

    async def delete(self, saga_id: str | uuid.UUID | SagaExecution) -> None:
        """Forget an execution.

        Raises:
            SagaExecutionNotFoundException: there is none with this id.
        """
        key = saga_id.saga_id if isinstance(saga_id, SagaExecution) else str(saga_id)
        if not await asyncio.to_thread(self._runtime.store.delete, key):
            raise SagaExecutionNotFoundException(key)


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
        execution = _without_messages(replace(execution, due_at=at), at)
    saved, created = store.create(execution, uuid.uuid4().hex)
    if not created:
        raise SagaAlreadyExists(execution.saga_id, saved.name)
    return saved


def _without_claims(execution: SagaExecution, at: float) -> SagaExecution:
    for index, step in enumerate(execution.steps):
        ref = execution.ref(index)
        if step.claim is not None and ref is not None:
            execution = decide(execution, ClaimVoided(at, ref, step.claim.token)).execution
    return execution


def _without_messages(execution: SagaExecution, at: float) -> SagaExecution:
    """Overdue, so that the first look sends it again; a retry of Celery's keeps its time."""
    for ref in execution.active:
        if (execution.steps[ref.step].expected_at or 0.0) <= at:
            execution = execution.with_step(ref.step, expected_at=0.0)
    return execution
