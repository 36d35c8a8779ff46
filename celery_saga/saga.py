"""A saga that can be started: the builder with Celery's calling convention."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from celery import Celery, Task, current_app
from celery.local import Proxy

from celery_saga import callables, info
from celery_saga.context import SagaContext
from celery_saga.decide.events import Looked, MessageState
from celery_saga.decide.moves import call_of
from celery_saga.definition import SagaDefinition
from celery_saga.errors import (
    DefinitionError,
    MissingInput,
    SagaAlreadyExists,
    SagaExecutionException,
)
from celery_saga.execution import SagaStatus
from celery_saga.plan import Plan
from celery_saga.result import SagaResult
from celery_saga.runtime import Runtime, runtime_of
from celery_saga.steps import LocalSagaStep
from celery_saga.timing import ends_in, starts_in

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
            UnserializableValue: a value cannot be stored.
            SagaAlreadyExists: the id is taken, and ``on_duplicate`` is ``"raise"``.
            StoreUnavailable: the store is away; calling again with the same id is safe.
            ValueError: another argument is not what it should be.
        """
        if on_duplicate not in ("return", "raise"):
            raise ValueError(f"on_duplicate: expected 'return' or 'raise', found {on_duplicate!r}")
        start = starts_in(self.app, countdown, eta)
        times = {"countdown": start, "deadline": ends_in(self.app, deadline, start)}
        result = self._start(context, _checked_id(saga_id), _routing(queue, priority), times)
        if not result.created and on_duplicate == "raise":
            raise SagaAlreadyExists(result.id, result.execution.name)
        return result

    def _start(
        self,
        context: Mapping[str, Any] | None,
        saga_id: str,
        routing: dict[str, Any],
        times: dict[str, float | None],
    ) -> SagaResult:
        runtime = runtime_of(self.app)
        plan, values = runtime.plan(self, **routing), _values(context)
        _check_first_step(plan, values)
        token = uuid.uuid4().hex
        _, created = runtime.orchestrator.start(plan, saga_id, values, token=token, **times)
        if created and self.app.conf.task_always_eager:
            _finish_eagerly(runtime, saga_id)
        return SagaResult(runtime, saga_id, created=created)


def _finish_eagerly(runtime: Runtime, saga_id: str) -> None:
    """See an eager saga to its end, and those that its steps have started.

    One that a step starts begins when the step is over, as it would on a worker; whoever runs the
    step comes back to it.
    """
    runtime.unfinished.append(saga_id)
    if info.current.get() is not None:
        return
    while runtime.unfinished:
        _go_on(runtime, runtime.unfinished.popleft())


def _go_on(runtime: Runtime, saga_id: str) -> None:
    """Send what waits for its time, or was given back, at once: no worker's heart would.

    Celery's own eager retries pass over their countdown in the same way.
    """
    orchestrator, tasks = runtime.orchestrator, runtime.app.tasks
    while not (execution := orchestrator.load(saga_id)).settled:
        step, slot = execution.steps[execution.position], execution.slot(execution.position)
        # What was sent again and not taken would not be taken the next time either.
        in_vain = slot is None or step.claim is not None or step.republished > 0
        if execution.status is SagaStatus.PAUSED or (step.not_before is None and in_vain):
            return
        if slot is not None and call_of(execution, slot.step, slot.direction).task not in tasks:
            return  # a task that this process does not have was sent to the broker
        at = max(step.not_before or 0.0, step.expected_at or 0.0, orchestrator.store.now())
        orchestrator.handle(saga_id, Looked(at, MessageState.LOST), execution)


def _routing(queue: Any, priority: Any) -> dict[str, Any]:
    if queue is not None and not (isinstance(queue, str) and queue):
        raise ValueError(f"queue: expected a queue's name, found {queue!r}")
    whole = isinstance(priority, int) and not isinstance(priority, bool)
    if priority is not None and not (whole and 0 <= priority <= 255):
        raise ValueError(f"priority: expected 0 to 255, found {priority!r}")
    given = {"queue": queue, "priority": priority}
    return {key: value for key, value in given.items() if value is not None}


def _checked_id(saga_id: Any) -> str:
    if saga_id is None:
        return str(uuid.uuid4())
    text = str(saga_id) if isinstance(saga_id, uuid.UUID) else saga_id
    if not isinstance(text, str) or _SAGA_ID.fullmatch(text) is None:
        raise SagaExecutionException(
            f"saga_id: expected 1 to 64 letters, digits, '.', '_' or '-', found {saga_id!r}"
        )
    return text


def _values(context: Mapping[str, Any] | None) -> dict[str, Any]:
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
