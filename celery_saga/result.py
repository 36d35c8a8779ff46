"""The handle of one saga, used like Celery's ``AsyncResult``."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic, Literal, overload

from celery import Celery, states
from celery.exceptions import TimeoutError
from celery.result import ResultBase, assert_will_not_block  # type: ignore[attr-defined]
from vine import promise

from celery_saga.core.context.saga_context import SagaContext
from celery_saga.core.events import CancelRequested
from celery_saga.core.execution import (
    TERMINAL,
    Direction,
    Failure,
    SagaExecution,
    SagaStatus,
    StepStatus,
)
from celery_saga.errors import (
    SagaExecutionNotFoundException,
    SagaNotActionable,
)
from celery_saga.messaging.outcome import STATES, result_of
from celery_saga.messaging.results import forget_result

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from celery_saga.runtime import Runtime

    #: The class of a context: that of the saga's model, if it has one.
    C = TypeVar("C", default=SagaContext)
else:
    from typing import TypeVar

    C = TypeVar("C")

#: Seconds of one wait in the store when no timeout is given; the wait is then repeated.
FOREVER = 3600.0

#: Seconds for which :meth:`SagaResult.forget` waits for a result to be stored.
NOTICE_TIMEOUT = 10.0

#: Of steps that a rollback concerns.
_ROLLED_BACK = ("COMPENSATING", "COMPENSATED", "COMPENSATION_FAILED", "SKIPPED", "UNKNOWN")


class SagaResult(ResultBase, Generic[C]):
    """Reads the state of one saga, and waits for its end.

    It has the methods of :class:`celery.result.AsyncResult`, and can be in a ``ResultSet``.
    ``state`` is Celery's state, ``status`` is the saga's own. A saga is not a child of a task:
    ``parent`` is None and ``children`` is empty.

    Args:
        runtime: the engine of the app that runs it.
        saga_id: the saga.
        created: whether the call that returned this handle started the saga; ``False`` if the id
            was taken and the saga that has it was returned.
        model: the :class:`ContextModel` of the context; this handle returns instances of it.
    """

    TimeoutError = TimeoutError
    #: The same as of Celery's own result of a task whose children are not known.
    children: tuple[Any, ...] = ()
    #: A set of results polls each in turn; the store is not the result backend.
    supports_native_join = False

    def __init__(
        self, runtime: Runtime, saga_id: str, *, created: bool = False, model: Any = None
    ) -> None:
        self._runtime, self._model = runtime, model
        self.id = saga_id
        self.created = created
        self._cache: dict[str, Any] | None = None  # as the backend reports it; for a ResultSet
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
        return self._without_context.name

    @property
    def state(self) -> str:
        """The status as Celery's state of a task: PENDING, STARTED, SUCCESS or FAILURE."""
        return STATES[self.status]

    @property
    def result(self) -> Any:
        """The final context, or the error; before the end, the progress of its steps."""
        return result_of(self.execution)

    info = result

    @property
    def traceback(self) -> None:
        """None: no traceback is kept."""

    @property
    def date_done(self) -> datetime | None:
        """The time at which a settled saga's end was last reported, in UTC by the store's clock."""
        execution = self._without_context
        at = execution.updated_at
        return datetime.fromtimestamp(at, timezone.utc) if execution.settled else None

    @property
    def execution(self) -> SagaExecution:
        """The newest checkpoint.

        Raises:
            SagaExecutionNotFoundException: it has expired, or the saga never existed.
        """
        return self._runtime.orchestrator.load(self.id)

    @property
    def _without_context(self) -> SagaExecution:
        """The newest checkpoint without the context, which may be large."""
        return self._runtime.orchestrator.load(self.id, context=False)

    @property
    def status(self) -> SagaStatus:
        """The status of the saga; reading it does not read the context."""
        return self._without_context.status

    @property
    def context(self) -> C:
        """The current context: a SagaContext, or an instance of the saga's model."""
        found: C = self._typed(self.execution.context)
        return found

    def _typed(self, context: SagaContext) -> Any:
        return context if self._model is None else self._model.instance(context)

    @property
    def progress(self) -> OrderedDict[str, StepStatus]:
        """The status of each step by its name, in order."""
        return OrderedDict((step.name, step.status) for step in self._without_context.steps)

    @property
    def failure(self) -> Failure | None:
        """Why the saga is stuck or rolled back: step, error, attempt; ``None``: it is neither."""
        execution = self._without_context
        if execution.status is SagaStatus.COMPLETED:
            return None  # also where an operator has said so
        return execution.error or execution.rollback_reason

    @property
    def rollback(self) -> OrderedDict[str, StepStatus]:
        """How the rollback went: the statuses of the steps that it concerns, by name, in order.

        ``COMPENSATED``, ``COMPENSATING`` or ``COMPENSATION_FAILED``; ``SKIPPED`` of a step that an
        operator has handled; ``UNKNOWN`` of one that may have taken effect and has no compensation.
        Empty: nothing was rolled back.
        """
        execution = self._without_context
        if execution.direction is Direction.FORWARD:
            return OrderedDict()
        return OrderedDict(
            (it.name, it.status) for it in execution.steps if it.status in _ROLLED_BACK
        )

    def ready(self) -> bool:
        """Whether :meth:`get` would return at once."""
        return self._without_context.settled

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
        *others: Any,
        **options: Any,
    ) -> C: ...
    @overload
    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *others: Any,
        **options: Any,
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
            timeout: seconds; ``None``: no limit.
            propagate: if false, the error is returned, not raised.
            interval, no_ack, follow_parents, on_message, on_interval: accepted and not used: the
                store reports when a saga has settled.
            callback: called with the id and the result before that is returned.
            disable_sync_subtasks: refuse to wait inside a task, where waiting can deadlock the
                workers. As with Celery, False allows it at your own risk.

        Returns:
            The final context: a :class:`SagaContext`, or an instance of the saga's model.

        Raises:
            celery.exceptions.TimeoutError: it is not settled in time.
            SagaCompensated: it failed and was compensated.
            SagaStuck: it needs operator intervention.
            ContextInvalid: it has completed, and its context does not fit its model.
            SagaExecutionNotFoundException: no saga has this id.
            RuntimeError: called inside a task.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        execution = self._settled(timeout)
        self._fulfil()
        return self._outcome(execution, propagate, callback)

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

    def _outcome(self, execution: SagaExecution, propagate: bool, callback: Any) -> Any:
        result = result_of(execution)
        if propagate and isinstance(result, Exception):
            raise result
        if isinstance(result, SagaContext):
            result = self._typed(result)
        if callback is not None:
            callback(self.id, result)
        return result

    wait = get

    def maybe_throw(self, propagate: bool = True, callback: Any = None) -> Any:
        """Raise the error of a saga that did not complete; else return the result."""
        return self._outcome(self.execution, propagate, callback)

    maybe_reraise = maybe_throw

    def then(self, callback: Any, on_error: Any = None, weak: bool = False) -> Any:
        """Call a vine promise with this handle once the saga has ended."""
        if not self._on_ready.ready and getattr(self.backend, "is_async", False):
            self._waited_for = True
            self.backend.add_pending_result(self, weak=weak)
        return self._on_ready.then(callback, on_error)

    def _maybe_set_cache(self, meta: dict[str, Any]) -> None:
        """Called by the result backend when it receives a result that is waited for."""
        if meta and meta["status"] in states.READY_STATES:
            self._cache = meta
            self._fulfil()

    def _fulfil(self) -> None:
        if not self._on_ready.ready:
            self._on_ready(self)

    def _forgotten(self, result: Any) -> Any:
        """Stop waiting for it in the backend, as Celery's own results do."""
        if self._waited_for:
            self.backend.remove_pending_result(self)
        return result

    def as_tuple(self) -> tuple[tuple[str, None], None]:
        """The id in the form in which Celery writes results in canvases."""
        return (self.id, None), None

    def as_list(self) -> list[str]:
        """The id alone."""
        return [self.id]

    def cancel(
        self,
        reason: str = "cancelled",
        by: str = "",
        *,
        terminate: bool = False,
        signal: str = "SIGTERM",
    ) -> bool:
        """Roll the saga back; returns whether this call changed how it ends.

        Args:
            reason: a text for the history.
            by: the operator or caller who requests it.
            terminate: kill the process that runs the step, if one does, and do not wait for the
                step's end. Its effect may have happened, so it is compensated with the rest. A
                compensation is never killed. Pools that cannot kill a task (threads, solo) let the
                step end.
            signal: the signal that kills it.

        Raises:
            SagaPastPivot: its pivot was dispatched.
        """
        event = CancelRequested(self._runtime.store.now(), by, reason)
        after, changed = self._runtime.apply(self.id, event, self.execution)
        forward = [ref for ref in after.active if ref.direction is Direction.FORWARD]
        if terminate and after.rollback_reason is not None:
            for running in forward:
                control = self._runtime.app.control
                control.revoke(running.task_id(self.id), terminate=True, signal=signal)
        return changed

    def signal(self, name: str, payload: Any = None, by: str = "") -> bool:
        """Send a signal to the saga; returns whether this call changed anything.

        The wait for it ends, at once or when the saga comes to it. See :meth:`Operators.signal`.
        """
        return self._runtime.signal(self.id, name, payload, by)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """The same as :meth:`cancel`: revoking a saga rolls it back.

        Args:
            connection, wait, timeout: accepted and not used: the store reports the outcome.
        """
        self.cancel("revoked", terminate=terminate, signal=signal or "SIGTERM")

    def forget(self) -> None:
        """Delete the checkpoint and the Celery result of a saga that has ended.

        After that the id can be used again.

        Raises:
            SagaNotActionable: it has not ended, is stuck, or its result could not be stored yet.
            SagaExecutionNotFoundException: no saga has this id.
        """
        stop_waiting_at = time.monotonic() + NOTICE_TIMEOUT
        while True:
            found = self.execution
            if found.status not in TERMINAL:
                raise SagaNotActionable(self.id, "forget", found.status.value)
            if not found.result_pending and self._runtime.store.delete(self.id, found.revision):
                break
            if found.result_pending and time.monotonic() > stop_waiting_at:
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
