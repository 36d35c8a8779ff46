"""What Celery is told when a saga settles: its result, and what its callers asked for.

A saga that was started by the task ``celery_saga.start`` has callers: the request of that task says
who is to be called back. It is kept in the checkpoint, and this module does with it at the end what
Celery's own tracer does when a task ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Celery, states
from celery._state import _task_stack  # type: ignore[attr-defined]
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.canvas import group, maybe_signature
from kombu.exceptions import EncodeError, SerializationError
from kombu.utils import json as kombu_json

from celery_saga.core.execution import Direction, SagaExecution, SagaStatus, StepRef
from celery_saga.messaging.callbacks import told_of
from celery_saga.messaging.headers import as_sent
from celery_saga.messaging.outcome import failure_of

#: The engine task that starts a saga; its id is the saga's.
START = "celery_saga.start"

#: What is kept of the request that starts a saga.
_KEPT = (
    "callbacks",
    "errbacks",
    "chain",
    "group",
    "group_index",
    "chord",
    "root_id",
    "parent_id",
    "ignore_result",
    "reply_to",
    "correlation_id",
    "stamped_headers",
    "stamps",
)


#: Of callbacks that can be sent at no time: their arguments do not fit, or cannot be encoded.
_NEVER = (TypeError, ValueError, SerializationError)


def wanted(app: Celery, ignore_result: bool | None = False) -> bool:
    """Whether sagas of the app have a Celery result, unless this one's ``ignore_result`` is set."""
    conf = app.conf
    if ignore_result or conf.task_ignore_result:
        return False
    if conf.task_always_eager and not conf.task_store_eager_result:
        return False
    return not isinstance(app.backend, DisabledBackend)


def origin_of(request: Any) -> dict[str, Any]:
    """What is kept of a request, as plain JSON."""
    kept = {name: getattr(request, name, None) for name in _KEPT}
    kept["priority"] = (request.delivery_info or {}).get("priority")
    given = {name: value for name, value in kept.items() if value}
    if request.group_index is not None:
        given["group_index"] = request.group_index
    plain: dict[str, Any] = json.loads(kombu_json.dumps(given))
    return plain


def announce(app: Celery, execution: SagaExecution) -> None:
    """Store the result of a settled saga, and tell its callers.

    The result comes first: while the backend is away nobody is told, and nobody is told twice.

    Raises:
        Exception: of the result backend or the broker; then all of it is to be repeated.
    """
    request = request_of(execution)
    with _as_the_task(app, request):
        if execution.status is not SagaStatus.COMPLETED:
            _fail(app, execution, request, failure_of(execution))
            return
        try:
            store_result(app, execution, request)
        except EncodeError as error:
            _fail(app, execution, request, error)  # as Celery does with such a result
            return
        if execution.origin is None:
            return
        try:
            _call_back(app, execution, request)
        except _NEVER as error:
            _fail(app, execution, request, error)  # so does Celery; it would never go


def store_result(app: Celery, execution: SagaExecution, request: Any) -> None:
    """Store the result of a completed saga, if it is to have one."""
    if execution.wants_result:
        result = dict(execution.values)
        app.backend.store_result(execution.saga_id, result, states.SUCCESS, request=request)


def _fail(app: Celery, execution: SagaExecution, request: Any, error: Exception) -> None:
    app.backend.mark_as_failure(
        execution.saga_id, error, request=request, store_result=execution.wants_result
    )


def _call_back(app: Celery, execution: SagaExecution, request: Any) -> None:
    """Callbacks, the rest of the chain, and the chord, as after a task that succeeded."""
    result = dict(execution.values)
    options = {"parent_id": _last_task(execution), "root_id": request.root_id}
    if app.conf.task_inherit_parent_priority:
        options["priority"] = request.delivery_info.get("priority")
    # As each is data of a signature, None does not come back.
    found: list[Any] = [maybe_signature(each, app=app) for each in request.callbacks or ()]
    groups = [each for each in found if isinstance(each, group)]
    single = [each for each in found if not isinstance(each, group)]
    for each in [*groups, *([group(single, app=app)] if len(single) > 1 else single)]:
        each.apply_async((result,), **options)
    if request.chain:
        *rest, last = request.chain
        following: Any = maybe_signature(last, app=app)
        following.apply_async((result,), chain=rest, **options)
    # The result itself is stored; this is for the chord.
    app.backend.mark_as_done(execution.saga_id, result, request, store_result=False)


def _last_task(execution: SagaExecution) -> str:
    """The parent of callbacks: the task that started the saga, or else its last step's."""
    if execution.parent_id == execution.saga_id:
        return execution.saga_id
    index, step = len(execution.steps) - 1, execution.steps[-1]
    return StepRef((index,), Direction.FORWARD, step.epoch).task_id(execution.saga_id)


def request_of(execution: SagaExecution) -> Any:
    """The request of the task that started the saga, or of one that might have."""
    told = told_of(execution.origin or {}, execution.status.value)
    kept: Mapping[str, Any] = kombu_json.loads(json.dumps(told))
    saga_id = execution.saga_id
    return Context(
        {
            **kept,
            "id": saga_id,
            "task": START,
            "root_id": kept.get("root_id") or execution.root,
            "args": [],
            "kwargs": {"saga": execution.name},
            "headers": as_sent(execution.headers),
            "called_directly": False,
            "delivery_info": {"priority": kept.get("priority")},
        }
    )


@contextmanager
def _as_the_task(app: Celery, request: Any) -> Iterator[None]:
    """What is called now is not a child of the step whose task happens to run here."""
    task = app.tasks[START]
    _task_stack.push(task)
    task.request_stack.push(request)
    try:
        yield
    finally:
        task.request_stack.pop()
        _task_stack.pop()
