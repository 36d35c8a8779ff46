"""The handle of one saga; it is used like Celery's ``AsyncResult``."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from celery.exceptions import TimeoutError
from celery.result import assert_will_not_block  # type: ignore[attr-defined]

from celery_saga.context import SagaContext
from celery_saga.decide.events import CancelRequested
from celery_saga.errors import (
    SagaCompensated,
    SagaExecutionNotFoundException,
    SagaFailedExecutionException,
    SagaNotActionable,
    SagaStuck,
)
from celery_saga.execution import (
    TERMINAL,
    Direction,
    SagaExecution,
    SagaStatus,
    StepStatus,
)
from celery_saga.failures import cause_of
from celery_saga.repair import Obstacle, obstacle_of
from celery_saga.stores.redis_pool import when_free

if TYPE_CHECKING:
    from celery_saga.runtime import Runtime

#: Seconds of one wait in the store when no timeout is given; it then waits on.
FOREVER = 3600.0

#: Seconds for which :meth:`SagaResult.forget` waits for a result to be stored.
TOLD_IN_TIME = 10.0


class SagaResult:
    """Asks for the state of one saga, and waits for its end.

    Args:
        runtime: of the app that runs it.
        saga_id: the saga.
        created: whether the call that returned this handle started the saga; ``False`` if the id
            was taken and the saga that has it was returned.
    """

    def __init__(self, runtime: Runtime, saga_id: str, *, created: bool = False) -> None:
        self._runtime = runtime
        self.id = saga_id
        self.created = created

    @property
    def execution(self) -> SagaExecution:
        """The newest checkpoint.

        Raises:
            SagaExecutionNotFoundException: it has expired, or there never was one.
        """
        return self._runtime.orchestrator.load(self.id)

    @property
    def status(self) -> SagaStatus:
        """Where the saga is."""
        return self.execution.status

    @property
    def context(self) -> SagaContext:
        """The context as it is now."""
        return self.execution.context

    @property
    def progress(self) -> OrderedDict[str, StepStatus]:
        """The status of each step by its name, in order."""
        return OrderedDict((step.name, step.status) for step in self.execution.steps)

    def ready(self) -> bool:
        """Whether :meth:`get` would answer at once."""
        return self.execution.settled

    def successful(self) -> bool:
        """Whether the saga completed."""
        return self.status is SagaStatus.COMPLETED

    def failed(self) -> bool:
        """Whether it was compensated or is stuck."""
        return self.status in (SagaStatus.COMPENSATED, SagaStatus.STUCK)

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
    ) -> SagaContext:
        """Wait for the end.

        Args:
            timeout: seconds; ``None``: as long as it takes.
            propagate: whether to raise when the saga did not complete.
            disable_sync_subtasks: refuse to wait inside a task, where waiting can lock up the
                workers. As with Celery, False allows it at your own risk.

        Returns:
            The final context.

        Raises:
            celery.exceptions.TimeoutError: it is not settled in time.
            SagaCompensated: it failed and was undone.
            SagaStuck: it needs a person.
            SagaExecutionNotFoundException: there is no such saga.
            RuntimeError: called inside a task.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        store = self._runtime.store
        while True:
            found = store.wait(self.id, FOREVER if timeout is None else timeout)
            if found is None:
                raise SagaExecutionNotFoundException(self.id)
            if found.settled:
                break
            if timeout is not None:
                raise TimeoutError("The operation timed out.")
        if propagate and found.status is not SagaStatus.COMPLETED:
            raise failure_of(found)
        return found.context

    def cancel(
        self,
        reason: str = "cancelled",
        by: str = "",
        *,
        terminate: bool = False,
        signal: str = "SIGTERM",
    ) -> bool:
        """Have the saga undone; whether this call changed how it ends.

        Args:
            reason: in words, for the history.
            by: who wants it.
            terminate: kill the process that runs the step, where one does, and do not wait for its
                end. The step counts as one that may have happened: it is undone with the rest. An
                undo is never killed. Pools that cannot kill a task (threads, solo) let it end.
            signal: how it is killed.

        Raises:
            SagaPastPivot: its pivot was dispatched.
        """
        orchestrator = self._runtime.orchestrator
        event = CancelRequested(orchestrator.store.now(), by, reason)
        after, changed = orchestrator.change(self.id, event, self.execution)
        running = after.slot(after.position)
        forward = running is not None and running.direction is Direction.FORWARD
        if terminate and running and forward and after.unwind is not None:
            control = self._runtime.app.control
            control.revoke(running.task_id(self.id), terminate=True, signal=signal)
        return changed

    def forget(self) -> None:
        """Drop the checkpoint and the Celery result of a saga that is over.

        The id is free then.

        Raises:
            SagaNotActionable: it is not over, or is stuck, or its result could not be stored yet.
            SagaExecutionNotFoundException: there is no such saga.
        """
        give_up = time.monotonic() + TOLD_IN_TIME
        while True:
            found = self.execution
            if found.status not in TERMINAL:
                raise SagaNotActionable(self.id, "forget", found.status.value)
            if not found.result_pending and self._runtime.store.delete(self.id, found.revision):
                break
            if found.result_pending and time.monotonic() > give_up:
                status = f"{found.status.value}, and its result is not stored yet"
                raise SagaNotActionable(self.id, "forget", status)
            time.sleep(0.01)
        if found.wants_result:
            when_free(lambda: self._runtime.app.backend.forget(self.id))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SagaResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<SagaResult: {self.id}>"


def failure_of(execution: SagaExecution) -> SagaFailedExecutionException:
    """The error that stands for how a settled saga ended; its cause is what the step raised."""
    obstacle = obstacle_of(execution) or Obstacle("", "")
    kind = SagaCompensated if execution.status is SagaStatus.COMPENSATED else SagaStuck
    error = kind(execution.saga_id, obstacle.step, obstacle.cause)
    error.__cause__ = cause_of(execution)
    return error
