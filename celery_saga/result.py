"""The handle of one saga; it is used like Celery's ``AsyncResult``."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, overload

from celery import Celery, states
from celery.exceptions import TimeoutError
from celery.result import ResultBase, assert_will_not_block  # type: ignore[attr-defined]
from vine import promise

from celery_saga.core.context.saga_context import SagaContext
from celery_saga.core.events import CancelRequested
from celery_saga.core.execution import TERMINAL, Direction, SagaExecution, SagaStatus, StepStatus
from celery_saga.errors import (
    SagaExecutionNotFoundException,
    SagaNotActionable,
)
from celery_saga.messaging.outcome import STATES, result_of
from celery_saga.messaging.results import forget_result

if TYPE_CHECKING:
    from celery_saga.runtime import Runtime

#: Seconds of one wait in the store when no timeout is given; it then waits on.
FOREVER = 3600.0

#: Seconds for which :meth:`SagaResult.forget` waits for a result to be stored.
NOTICE_TIMEOUT = 10.0


class SagaResult(ResultBase):
    """Asks for the state of one saga, and waits for its end.

    It has what an :class:`celery.result.AsyncResult` has, and goes into a ``ResultSet``. ``state``
    is in Celery's words, ``status`` is the saga's own. A saga is no child of a task: ``parent`` is
    None and ``children`` is empty.

    Args:
        runtime: of the app that runs it.
        saga_id: the saga.
        created: whether the call that returned this handle started the saga; ``False`` if the id
            was taken and the saga that has it was returned.
    """

    TimeoutError = TimeoutError
    #: As of Celery's own result of a task whose children are not known.
    children: tuple[Any, ...] = ()
    #: A set of results asks each in turn; the store is not the result backend.
    supports_native_join = False

    def __init__(self, runtime: Runtime, saga_id: str, *, created: bool = False) -> None:
        self._runtime = runtime
        self.id = saga_id
        self.created = created
        self._cache: dict[str, Any] | None = None  # as the backend tells; read by a ResultSet
        self._on_ready = promise(self._forgotten, weak=True)
        self._waited_for = False

    @property
    def app(self) -> Celery:
        """The app that runs the saga."""
        return self._runtime.app

    @property
    def backend(self) -> Any:
        """The app's result backend."""
        return self.app.backend

    @property
    def task_id(self) -> str:
        """The saga's id, which is the id of its Celery result."""
        return self.id

    @property
    def name(self) -> str:
        """The saga's name."""
        return self._glance.name

    @property
    def state(self) -> str:
        """The status as Celery's state of a task: PENDING, STARTED, SUCCESS or FAILURE."""
        return STATES[self.status]

    @property
    def result(self) -> Any:
        """The final context, or the error; of a saga on its way what its steps are at."""
        return result_of(self.execution)

    info = result

    @property
    def traceback(self) -> None:
        """None: no traceback is kept."""

    @property
    def date_done(self) -> datetime | None:
        """When the end of a saga that is settled was last told, in UTC by the store's clock."""
        execution = self._glance
        at = execution.updated_at
        return datetime.fromtimestamp(at, timezone.utc) if execution.settled else None

    @property
    def execution(self) -> SagaExecution:
        """The newest checkpoint.

        Raises:
            SagaExecutionNotFoundException: it has expired, or there never was one.
        """
        return self._runtime.orchestrator.load(self.id)

    @property
    def _glance(self) -> SagaExecution:
        """The newest checkpoint without the context, which may be large and is asked for often."""
        return self._runtime.orchestrator.load(self.id, context=False)

    @property
    def status(self) -> SagaStatus:
        """Where the saga is; the context is not read for that."""
        return self._glance.status

    @property
    def context(self) -> SagaContext:
        """The context as it is now."""
        return self.execution.context

    @property
    def progress(self) -> OrderedDict[str, StepStatus]:
        """The status of each step by its name, in order."""
        return OrderedDict((step.name, step.status) for step in self._glance.steps)

    def ready(self) -> bool:
        """Whether :meth:`get` would answer at once."""
        return self._glance.settled

    def successful(self) -> bool:
        """Whether the saga completed."""
        return self.status is SagaStatus.COMPLETED

    def failed(self) -> bool:
        """Whether it was compensated or is stuck."""
        return self.status in (SagaStatus.COMPENSATED, SagaStatus.STUCK)

    @overload
    def get(
        self,
        timeout: float | None = None,
        propagate: Literal[True] = True,
        interval: float | None = None,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: None = None,
        on_message: None = None,
        on_interval: Any = None,
        disable_sync_subtasks: bool = True,
    ) -> SagaContext: ...
    @overload
    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: None = None,
        on_interval: Any = None,
        disable_sync_subtasks: bool = True,
    ) -> Any: ...
    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: None = None,
        on_interval: Any = None,
        disable_sync_subtasks: bool = True,
    ) -> Any:
        """Wait for the end; for a saga that did not complete, raise its error.

        Args:
            timeout: seconds; ``None``: as long as it takes.
            propagate: without it the error is returned, not raised.
            interval, no_ack, follow_parents, on_message, on_interval: taken and not needed: the
                store says when a saga has settled.
            callback: called with the id and the result before that is returned.
            disable_sync_subtasks: refuse to wait inside a task, where waiting can lock up the
                workers. As with Celery, False allows it at your own risk.

        Returns:
            The final context, a :class:`SagaContext`.

        Raises:
            celery.exceptions.TimeoutError: it is not settled in time.
            SagaCompensated: it failed and was undone.
            SagaStuck: it needs a person.
            SagaExecutionNotFoundException: there is no such saga.
            RuntimeError: called inside a task.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        execution = self._settled(timeout)
        self._fulfil()
        return self._given(execution, propagate, callback)

    def _settled(self, timeout: float | None) -> SagaExecution:
        store = self._runtime.store
        while True:
            found = store.wait(self.id, FOREVER if timeout is None else timeout)
            if found is None:
                raise SagaExecutionNotFoundException(self.id)
            if found.settled:
                return found
            if timeout is not None:
                raise TimeoutError("The operation timed out.")

    def _given(self, execution: SagaExecution, propagate: bool, callback: Any) -> Any:
        result = result_of(execution)
        if propagate and isinstance(result, Exception):
            raise result
        if callback is not None:
            callback(self.id, result)
        return result

    wait = get

    def maybe_throw(self, propagate: bool = True, callback: Any = None) -> Any:
        """Raise the error of a saga that did not complete; otherwise the result."""
        return self._given(self.execution, propagate, callback)

    maybe_reraise = maybe_throw

    def then(self, callback: Any, on_error: Any = None, weak: bool = False) -> Any:
        """Have a vine promise called with this handle, once it or the backend hears of the end."""
        if not self._on_ready.ready and getattr(self.backend, "is_async", False):
            self._waited_for = True
            self.backend.add_pending_result(self, weak=weak)
        return self._on_ready.then(callback, on_error)

    def _maybe_set_cache(self, meta: dict[str, Any]) -> None:
        """What the result backend calls when it hears of a result that is waited for."""
        if meta and meta["status"] in states.READY_STATES:
            self._cache = meta
            self._fulfil()

    def _fulfil(self) -> None:
        if not self._on_ready.ready:
            self._on_ready(self)

    def _forgotten(self, result: Any) -> Any:
        """The backend listens no longer, and keeps this no longer; as of Celery's own results."""
        if self._waited_for:
            self.backend.remove_pending_result(self)
        return result

    def as_tuple(self) -> tuple[tuple[str, None], None]:
        """The id as Celery writes results in canvases."""
        return (self.id, None), None

    def as_list(self) -> list[str]:
        """The id, alone."""
        return [self.id]

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
        after, changed = orchestrator.apply(self.id, event, self.execution)
        running = after.first_active
        forward = running is not None and running.direction is Direction.FORWARD
        if terminate and running and forward and after.rollback_reason is not None:
            control = self._runtime.app.control
            control.revoke(running.task_id(self.id), terminate=True, signal=signal)
        return changed

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """As :meth:`cancel`: what is revoked of a saga is undone.

        Args:
            connection, wait, timeout: taken and not needed: the answer comes from the store.
        """
        self.cancel("revoked", terminate=terminate, signal=signal or "SIGTERM")

    def forget(self) -> None:
        """Drop the checkpoint and the Celery result of a saga that is over.

        The id is free then.

        Raises:
            SagaNotActionable: it is not over, or is stuck, or its result could not be stored yet.
            SagaExecutionNotFoundException: there is no such saga.
        """
        give_up = time.monotonic() + NOTICE_TIMEOUT
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
            forget_result(self._runtime.app, self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SagaResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<SagaResult: {self.id}>"
