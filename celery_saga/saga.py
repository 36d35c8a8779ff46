"""A saga that can be started: the builder with Celery's calling convention."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from celery import Celery, Signature, Task, current_app
from celery.local import Proxy

from celery_saga import announce, callables, codec
from celery_saga.context import SagaContext
from celery_saga.decide.events import Looked
from celery_saga.definition import SagaDefinition
from celery_saga.dispatch import run_here
from celery_saga.errors import (
    DefinitionError,
    MissingInput,
    SagaAlreadyExists,
    SagaExecutionException,
)
from celery_saga.orchestrator import Orchestrator
from celery_saga.plan import Plan
from celery_saga.result import SagaResult
from celery_saga.runtime import Runtime, runtime_of
from celery_saga.steps import LocalSagaStep
from celery_saga.timing import ends_in, starts_in
from celery_saga.values import Values

_SAGA_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Saga(SagaDefinition):
    """A definition that is started like a task is: ``saga.delay(order_id=7)``."""

    __doc__ = f"{__doc__}\n\n{SagaDefinition.__doc__}"

    @property
    def app(self) -> Celery:
        """The app that runs it: given, else the one that its tasks share, else the current one.

        Raises:
            DefinitionError: its tasks belong to several apps.
        """
        if self._app is not None:
            return self._app  # type: ignore[no-any-return]
        apps: dict[int, Celery] = {}
        for step in self.steps:
            if not isinstance(step, LocalSagaStep):
                continue
            for operation in (step.action, step.compensation):
                target = operation.callback if operation else None
                if type(target) is Proxy:
                    continue  # a shared task goes with every app
                if not callables.is_plain(target) and isinstance(target, Task):
                    apps[id(target.app)] = target.app
        if len(apps) > 1:
            names = " and ".join(sorted(repr(app.main) for app in apps.values()))
            raise DefinitionError(
                f"saga {self.name!r}: its tasks belong to the apps {names}; a saga runs on one "
                f"app: use tasks of one, or name it with Saga(..., app=app) and give the others by "
                f"their names"
            )
        return next(iter(apps.values()), current_app._get_current_object())  # type: ignore[attr-defined]

    def delay(self, **context: Any) -> SagaResult:
        """Start a run with this context."""
        return self.apply_async(context)

    def apply_async(
        self,
        context: Mapping[str, Any] | None = None,
        *,
        saga_id: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        deadline: float | timedelta | datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        on_duplicate: str = "return",
    ) -> SagaResult:
        """Start a run.

        Args:
            context: what the saga begins with.
            saga_id: its id, ``[A-Za-z0-9._-]{1,64}``; left out, a new uuid4.
            countdown: seconds until the first step is sent, at most a heartbeat late.
            eta: the same as a time; a naive one is in the app's time zone.
            deadline: seconds, or a time, by which it must be past its pivot or at its end.
            queue: for all steps that name none of their own; so ``priority``, 0 to 255.
            on_duplicate: if the id is taken: ``"return"`` that saga's handle, or ``"raise"``.

        Raises:
            SetupError: the app has no SagaManager here, or no usable store.
            DefinitionError: the saga cannot be run.
            MissingInput: the first step needs a key that the context lacks.
            UnserializableValue, ContextTooLarge: the context cannot be stored.
            SagaAlreadyExists: the id is taken, and ``on_duplicate`` is ``"raise"``.
            StoreUnavailable: the store is away; calling again with the same id is safe.
            ValueError: another argument is not what it should be.
        """
        if on_duplicate not in ("return", "raise"):
            raise ValueError(f"on_duplicate: expected 'return' or 'raise', found {on_duplicate!r}")
        start = starts_in(self.app, countdown, eta)
        times = {"countdown": start, "deadline": ends_in(self.app, deadline, start)}
        result = self._start(context, saga_id, _routing(queue, priority), times)
        if not result.created and on_duplicate == "raise":
            raise SagaAlreadyExists(result.id, result.execution.name)
        return result

    def _start(
        self,
        context: Mapping[str, Any] | None,
        saga_id: str | None,
        routing: dict[str, Any],
        times: dict[str, Any],
    ) -> SagaResult:
        runtime = runtime_of(self.app)
        plan, values = runtime.plan(self, **routing), values_of(context)
        checked = None if saga_id is None else checked_id("saga_id", saga_id)
        return begin(runtime, plan, values, checked, times)

    def s(self, **context: Any) -> Signature[Any]:
        """The start of a run with this context, as a signature for canvas and beat.

        As a link of a chain or as a callback it gets the result before it, which must be a mapping
        or None; keys that are given here win. The result of the signature is the final context.

        Raises:
            DefinitionError: the saga has no name, by which a worker could find it.
            SagaNotCommittedException: ``commit()`` is missing.
            UnserializableValue: a value of the context cannot be sent.
        """
        return self.signature(context)

    def si(self, **context: Any) -> Signature[Any]:
        """As :meth:`s`, without the result before it."""
        return self.signature(context, immutable=True)

    def signature(
        self, context: Mapping[str, Any] | None = None, *, immutable: bool = False, **options: Any
    ) -> Signature[Any]:
        """As :meth:`s`, with the options of the message that starts the run.

        Args:
            context: what the saga begins with.
            immutable: leave out the result before it.
            options: Celery's, such as ``queue``, ``countdown``, ``priority``, ``task_id``; the
                task's id is the saga's.
        """
        self.validate()
        if self._name is None:
            raise DefinitionError(
                "a saga without a name cannot be a signature, for no worker could find it: give it "
                "one with Saga('name')"
            )
        values = values_of(context)
        codec.check(values, "context")
        given = {"saga": self._name, "context": values}
        return Signature(
            announce.START, kwargs=given, options=options, immutable=immutable, app=self.app
        )


def begin(
    runtime: Runtime,
    plan: Plan,
    values: Mapping[str, Any],
    saga_id: str | None,
    times: Mapping[str, Any],
    *,
    ignore_result: bool | None = False,
    origin: Mapping[str, Any] | None = None,
    eager: bool = False,
) -> SagaResult:
    """Start a run.

    Args:
        saga_id: its id; ``None``: a new one.
        times: ``countdown`` and ``deadline`` in seconds.
        ignore_result: whether it is to have no Celery result.
        origin: what its callers want to be told, as plain JSON.
        eager: whether to run it to its end here and now.

    Raises:
        MissingInput: the first step needs a key that the context lacks.
        ContextTooLarge: it has more than ``saga_context_limit`` characters.
    """
    values = Values(values)
    values.check_size(runtime.context_limit)
    _check_first_step(plan, values)
    wanted = not eager and announce.wanted(runtime.app, ignore_result)
    dropped = wanted and saga_id is not None and runtime.drop_old_result(saga_id)
    saga_id = saga_id or str(uuid.uuid4())
    given: dict[str, Any] = {"wants_result": wanted, "origin": origin, **times}
    with run_here(saga_id if eager else ""):
        token = uuid.uuid4().hex
        execution, created = runtime.orchestrator.start(plan, saga_id, values, token=token, **given)
        if created and (eager or runtime.app.conf.task_always_eager):
            _finish_eagerly(runtime.orchestrator, saga_id)
    if dropped and not created and execution.settled and not execution.result_pending:
        # It was started and ended meanwhile, and what was dropped was its own.
        announce.announce(runtime.app, execution)
    return SagaResult(runtime, saga_id, created=created)


def _finish_eagerly(orchestrator: Orchestrator, saga_id: str) -> None:
    """Send what waits for its time at once: no worker's heart would, and eager calls do not wait.

    Celery's own eager retries pass over their countdown in the same way.
    """
    execution = orchestrator.load(saga_id)
    while not execution.settled:
        until = execution.steps[execution.position].not_before
        if until is None:
            return  # a task that this process does not have was sent to the broker
        at = max(until, orchestrator.store.now())
        orchestrator.handle(saga_id, Looked(at), execution)
        execution = orchestrator.load(saga_id)


def _routing(queue: Any, priority: Any) -> dict[str, Any]:
    if queue is not None and not (isinstance(queue, str) and queue):
        raise ValueError(f"queue: expected a queue's name, found {queue!r}")
    whole = isinstance(priority, int) and not isinstance(priority, bool)
    if priority is not None and not (whole and 0 <= priority <= 255):
        raise ValueError(f"priority: expected 0 to 255, found {priority!r}")
    given = {"queue": queue, "priority": priority}
    return {key: value for key, value in given.items() if value is not None}


def checked_id(what: str, saga_id: Any) -> str:
    """The id of a saga, if it can be one; ``what`` names it in the error.

    Raises:
        SagaExecutionException: it cannot.
    """
    text = str(saga_id) if isinstance(saga_id, uuid.UUID) else saga_id
    if not isinstance(text, str) or _SAGA_ID.fullmatch(text) is None:
        raise SagaExecutionException(
            f"{what}: expected 1 to 64 letters, digits, '.', '_' or '-', found {saga_id!r}"
        )
    return text


def values_of(context: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a saga begins with, as a dict.

    Raises:
        TypeError: it is no mapping.
    """
    if context is not None and not isinstance(context, Mapping):
        raise TypeError(
            f"context: expected a mapping or SagaContext, found a {type(context).__name__}"
        )
    return dict(SagaContext(**context)) if context else {}


def _check_first_step(plan: Plan, values: Mapping[str, Any]) -> None:
    first = plan.steps[0]
    key = first.action.missing(values)
    if key is not None:
        raise MissingInput(key, first.name, first.action.task)
