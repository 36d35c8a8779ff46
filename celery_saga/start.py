"""The start of a run: one checked request, from a call, a message or an eager task."""

from __future__ import annotations

import importlib
import re
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from math import isfinite
from typing import Any

from celery import Celery
from celery.utils.time import maybe_make_aware

from celery_saga.core.context.data import Values
from celery_saga.core.context.saga_context import checked_key
from celery_saga.core.execution import SagaExecution, SagaStatus
from celery_saga.core.plan import NestedSaga, Plan, PlanStep
from celery_saga.errors import (
    IllegalSagaId,
    MissingInput,
    SagaAlreadyExists,
    SagaNotActionable,
    SetupError,
)
from celery_saga.messaging import results
from celery_saga.messaging.broker import broker_kind
from celery_saga.messaging.headers import users_headers
from celery_saga.messaging.publisher import run_here
from celery_saga.messaging.redis.publish import remember
from celery_saga.runtime import Runtime

#: What to do about an id that is taken: return that saga if the start is the same, return it in any
#: case, refuse in any case, or start it anew if it was compensated.
ON_DUPLICATE = ("return", "return_any", "raise", "restart_failed")

#: Seconds for which the result of a run that is started anew may take to be stored.
RESULT_TIMEOUT = 10.0

_SAGA_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class StartRequest:
    """The start of one run. It is checked when it is made; :func:`start` carries it out.

    Args:
        runtime: the engine of the app that it runs on.
        plan: the run's plan; ``queue`` and ``priority`` of a call are in it.
        context: the values that the run begins with.
        saga_id: its id; None: a new one.
        countdown: seconds, or a timedelta, until the first step is sent.
        eta: the time for that; a naive one is in UTC.
        deadline: seconds, a timedelta or a datetime by which it must be past its pivot or ended.
        on_duplicate: what to do about a taken id, one of :data:`ON_DUPLICATE`.
        headers: of the message or call that starts it; Celery's own are left out.
        callbacks: of its callers and its definition, as plain JSON: see
            :func:`celery_saga.messaging.callbacks.collect_callbacks`.
        ignore_result: whether to store no Celery result.
        opened_with: the values that identify a second start as the same one; by default
            the whole context.
        eager: whether to run it to its end in this call.

    Raises:
        SetupError: a worker would not find the run, or a setting is wrong.
        UnserializableValue, ContextTooLarge: the context cannot be stored.
        MissingInput: the first step needs a key that the context lacks.
        ValueError: another argument is not valid.
    """

    runtime: Runtime
    plan: Plan
    context: Values
    saga_id: str | None = None
    countdown: float | timedelta | None = None
    eta: datetime | None = None
    deadline: float | timedelta | datetime | None = None
    on_duplicate: str = "return"
    headers: Mapping[str, Any] | None = None
    callbacks: Mapping[str, Any] | None = None
    ignore_result: bool | None = False
    opened_with: Values | None = None
    eager: bool = False

    def __post_init__(self) -> None:
        if self.on_duplicate not in ON_DUPLICATE:
            raise ValueError(
                f"on_duplicate: expected {', '.join(map(repr, ON_DUPLICATE[:-1]))} or "
                f"{ON_DUPLICATE[-1]!r}, found {self.on_duplicate!r}"
            )
        if not self.eager and not self.runtime.app.conf.task_always_eager:
            check_start(self.runtime)
        self.context.check_size(self.runtime.settings.context_limit)
        _check_first_step(self.plan, self.context)
        if self.saga_id is not None:
            checked_id("saga_id", self.saga_id)
        self.times()

    def times(self) -> dict[str, float | None]:
        """``countdown`` and ``deadline`` in seconds from now.

        Raises:
            ValueError: one of the times is not valid, or has passed.
        """
        app = self.runtime.app
        begins = _starts_in(app, self.countdown, self.eta)
        return {"countdown": begins, "deadline": _ends_in(app, self.deadline, begins)}

    @property
    def digest(self) -> str:
        """The digest by which this start is compared with another one of the same id."""
        return (self.context if self.opened_with is None else self.opened_with).digest


def start(request: StartRequest) -> tuple[str, bool]:
    """Start a run; returns its id, and whether this call has created it.

    Raises:
        SagaAlreadyExists: the id is taken, and ``on_duplicate`` does not allow that.
        SagaNotActionable: the run that it would replace has a result that is not stored yet.
        StoreUnavailable: the store is unavailable; the same request may be repeated.
        ValueError: its deadline has passed meanwhile.
    """
    runtime, times = request.runtime, request.times()
    wanted = not request.eager and results.wanted(runtime.app, request.ignore_result)
    named = request.saga_id is not None
    saga_id = request.saga_id or str(uuid.uuid4())
    dropped = wanted and named and runtime.drop_old_result(saga_id)
    digest = request.digest if named else ""
    fields = {
        **times,
        **_lineage(runtime),
        "wants_result": wanted,
        "callbacks": request.callbacks,
        "headers": users_headers(request.headers) or None,
        "run_id": secrets.token_hex(4) if named else "",
        "opened_with": digest,
    }
    execution, created = _created(request, saga_id, fields)
    if not created:
        if dropped and execution.settled and not execution.result_pending:
            # It was started and ended meanwhile, so the deleted result was its own.
            results.restore(runtime.app, execution)
        _check_duplicate(execution, request.plan.saga, digest, request.on_duplicate)
    return saga_id, created


def _failed(runtime: Runtime, saga_id: str, name: str) -> SagaExecution | None:
    """The run of that id and name, if it was compensated; its result is stored then.

    Raises:
        SagaNotActionable: its result could not be stored yet.
    """
    stop_waiting_at = time.monotonic() + RESULT_TIMEOUT
    while True:
        found = runtime.store.load(saga_id)
        if found is None or found.name != name or found.status is not SagaStatus.COMPENSATED:
            return None
        if not found.result_pending:
            return found
        if time.monotonic() > stop_waiting_at:
            status = f"{found.status.value}, and its result is not stored yet"
            raise SagaNotActionable(saga_id, "on_duplicate='restart_failed'", status)
        time.sleep(0.01)


def _in_place_of(request: StartRequest) -> dict[str, Any]:
    """What starts a run in the place of one that was compensated, if it is to be.

    The keys of its steps differ from all that the other one had: a service that knows these would
    take a step for one that was compensated.
    """
    if request.saga_id is None or request.on_duplicate != "restart_failed":
        return {}
    failed = _failed(request.runtime, request.saga_id, request.plan.saga)
    if failed is None:
        return {}
    rounds = [max(step.round, step.compensation_round) for step in failed.steps]
    return {"replaces": failed, "first_round": failed.first_round + max(rounds) + 1}


def _created(
    request: StartRequest, saga_id: str, fields: Mapping[str, Any]
) -> tuple[SagaExecution, bool]:
    runtime, fields = request.runtime, {**fields, **_in_place_of(request)}
    here = request.eager or runtime.app.conf.task_always_eager
    if here:
        runtime.verify(runtime.app)  # no worker starts here that would have checked it
    if request.eager:
        remember(runtime.run_here, saga_id, True)
    with run_here(saga_id if request.eager else "", at_once=request.eager):
        execution, created = runtime.orchestrator.start(
            request.plan, saga_id, request.context, token=uuid.uuid4().hex, **fields
        )
        if created and here:
            runtime.finish_eagerly(saga_id, at_once=request.eager)
    return execution, created


def _check_duplicate(found: SagaExecution, name: str, digest: str, on_duplicate: str) -> None:
    """Refuse a start whose id is taken by another one, as ``on_duplicate`` says."""
    if on_duplicate == "return_any":
        return
    why = ""
    if found.name != name:
        why = f", and the saga {name!r} was to start"
    elif found.opened_with not in ("", digest):
        why = ", which began with another context"
    if why:
        why += "; give each its own id, or use the existing one with on_duplicate='return_any'"
    if why or on_duplicate == "raise":
        raise SagaAlreadyExists(found.saga_id, found.name, why)


def _lineage(runtime: Runtime) -> dict[str, str]:
    """Root and parent id, the same as those of a task that is sent from here."""
    task = runtime.app.current_worker_task
    if task is None or not task.request.id:
        return {}
    return {"root_id": task.request.root_id or task.request.id, "parent_id": task.request.id}


def checked_id(what: str, saga_id: Any) -> str:
    """Return ``saga_id`` as text; ``what`` names it in the error.

    Raises:
        IllegalSagaId: it cannot be the id of a saga.
    """
    text = str(saga_id) if isinstance(saga_id, uuid.UUID) else saga_id
    if not isinstance(text, str) or _SAGA_ID.fullmatch(text) is None:
        raise IllegalSagaId(what, saga_id)
    return text


def context_values(context: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the context that a saga begins with as a dict.

    Raises:
        TypeError: it is not a mapping, or a key is not a str.
    """
    if context is not None and not isinstance(context, Mapping):
        raise TypeError(
            f"context: expected a mapping or SagaContext, found a {type(context).__name__}"
        )
    return {checked_key(key): value for key, value in (context or {}).items()}


def _check_first_step(plan: Plan, values: Mapping[str, Any]) -> None:
    first = plan.steps[0]
    while isinstance(first, NestedSaga) and not first.scoped:
        first = first.steps[0]
    key = first.action.missing(values) if isinstance(first, PlanStep) else None
    if isinstance(first, PlanStep) and key is not None:
        raise MissingInput(key, first.name, first.action.task)


def _starts_in(app: Celery, countdown: Any, eta: Any) -> float | None:
    """Return the seconds until the first step is sent; ``None``: at once, as for a past time.

    Args:
        app: its time zone is used by Celery's conversion; a naive ``eta`` is in UTC, as a task's.
        countdown: seconds, 0 or more.
        eta: a datetime.

    Raises:
        ValueError: both are given, or one is not valid.
    """
    if countdown is not None and eta is not None:
        raise ValueError("countdown and eta: expected one of the two, found both")
    if countdown is not None:
        seconds = _seconds("countdown", countdown)
        if seconds < 0:
            raise ValueError(f"countdown: expected 0 seconds or more, found {countdown!r}")
        return seconds
    if eta is None:
        return None
    if not isinstance(eta, datetime):
        raise ValueError(f"eta: expected a datetime, found {eta!r}")
    return max(_from_now(app, eta), 0.0)


def _ends_in(app: Celery, deadline: Any, start: float | None) -> float | None:
    """Return the seconds until the saga is rolled back if it is not done; ``None``: no deadline.

    Args:
        deadline: seconds, a timedelta, or a datetime.
        start: seconds until the first step; the deadline comes after it.

    Raises:
        ValueError: it has another type, or leaves no time.
    """
    if deadline is None:
        return None
    if isinstance(deadline, datetime):
        seconds = _from_now(app, deadline)
    else:
        seconds = _seconds("deadline", deadline)
    if seconds <= (start or 0.0):
        raise ValueError(
            f"deadline: expected a time after the start of the saga, found {deadline!r}"
        )
    return seconds


def _from_now(app: Celery, when: datetime) -> float:
    aware = maybe_make_aware(when, app.timezone)
    return float((aware - datetime.now(timezone.utc)).total_seconds())


def _seconds(name: str, given: Any) -> float:
    if isinstance(given, timedelta):
        return given.total_seconds()
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not isfinite(given):
        raise ValueError(f"{name}: expected seconds or a timedelta, found {given!r}")
    return float(given)


def on_commit(call: Callable[[], object], using: str | None = None) -> None:
    """Make ``call`` after Django's current transaction is committed; outside of one, now.

    Args:
        using: the database, by its name in ``DATABASES``; by default the default one.

    Raises:
        SetupError: Django is not installed, or not configured in this process.
        ValueError: Django knows no such database.
    """
    try:
        transaction: Any = importlib.import_module("django.db.transaction")
        exceptions: Any = importlib.import_module("django.core.exceptions")
        databases: Any = importlib.import_module("django.db")
        unknown: Any = importlib.import_module("django.utils.connection").ConnectionDoesNotExist
    except ImportError as error:
        raise SetupError(
            "delay_on_commit() is for Django, which is not installed here: use delay(), or install "
            "celery-saga-workflow[django]"
        ) from error
    try:
        transaction.get_connection(using).ensure_connection()
    except unknown as error:
        raise ValueError(
            f"using: expected one of {sorted(databases.connections)}, as in DATABASES, found "
            f"{using!r}; a context key named 'using' goes into "
            f"apply_async_on_commit({{'using': ...}})"
        ) from error
    except exceptions.ImproperlyConfigured as error:
        raise SetupError(
            f"delay_on_commit() needs Django's settings and database in this process: set "
            f"DJANGO_SETTINGS_MODULE and call django.setup(), or use delay() ({error})"
        ) from error
    transaction.on_commit(call, using=using)


def check_start(runtime: Runtime) -> None:
    """Refuse to start a saga that no worker would find.

    Raises:
        SetupError: the saga would be kept in this process, and its steps sent to others.
    """
    if runtime.heartbeat is not None or runtime.store.shared:
        return  # a worker in this process uses the same store
    kind = broker_kind(runtime.app)
    if kind != "memory":
        raise SetupError(
            f"saga_store_url = 'memory://' keeps sagas in this process, and the broker is of the "
            f"kind {kind!r}: workers would get the steps of sagas that they cannot find. Use a "
            f"redis:// URL, the same in every process; in a test, task_always_eager = True or the "
            f"broker memory://"
        )
