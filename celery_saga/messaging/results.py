"""Publishes the Celery result of a saga that has settled, and calls its callbacks.

A saga that was started by the task ``celery_saga.start`` has callers: the request of that task has
their callbacks. The checkpoint keeps them, and at the end this module does with them the same as
Celery's own tracer does when a task ends.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, states
from celery._state import _task_stack  # type: ignore[attr-defined]
from celery.backends.base import DisabledBackend
from celery.canvas import group, maybe_signature
from kombu.exceptions import EncodeError, SerializationError
from kombu.utils import json as kombu_json

from celery_saga.core.decide.observed import log_fields
from celery_saga.core.execution import Direction, SagaExecution, SagaStatus, StepRef
from celery_saga.core.ports import Envelope, Store
from celery_saga.errors import StoreUnavailable
from celery_saga.messaging.outcome import START, failure_of, progress_of, request_of
from celery_saga.messaging.redis.result import RedisResults
from celery_saga.stores.redis.pool import when_free

log = logging.getLogger("celery_saga")

#: The fields of the request that starts a saga which are kept.
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


#: Errors of callbacks that cannot be sent: their arguments do not fit, or cannot be encoded.
_NEVER = (TypeError, ValueError, SerializationError)


def wanted(app: Celery, ignore_result: bool | None = False) -> bool:
    """Whether sagas of the app have a Celery result, unless ``ignore_result`` is set for one."""
    conf = app.conf
    if ignore_result or conf.task_ignore_result:
        return False
    if conf.task_always_eager and not conf.task_store_eager_result:
        return False
    return not isinstance(app.backend, DisabledBackend)


def callbacks_of(request: Any) -> dict[str, Any]:
    """Return the kept fields of a request, as plain JSON."""
    kept = {name: getattr(request, name, None) for name in _KEPT}
    kept["priority"] = (request.delivery_info or {}).get("priority")
    given = {name: value for name, value in kept.items() if value}
    if request.group_index is not None:
        given["group_index"] = request.group_index
    plain: dict[str, Any] = json.loads(kombu_json.dumps(given))
    return plain


class CeleryResults:
    """Stores the results of one app's sagas, and notifies their callers.

    Args:
        app: the Celery app, whose result backend is used.
        store: the store of its sagas; if it is on the backend's database, a result is written
            with the last checkpoint.
    """

    def __init__(self, app: Celery, store: Store) -> None:
        self._app, self._in_store = app, RedisResults(app, store)

    def encode(self, execution: SagaExecution) -> Envelope | None:
        return self._in_store.encode(execution)

    def publish(self, execution: SagaExecution) -> None:
        publish_and_notify(self._app, execution)


def publish_and_notify(app: Celery, execution: SagaExecution) -> None:
    """Store the result of a settled saga, and notify its callers.

    The result is stored first: while the backend is unavailable no caller is notified, and no
    caller is notified twice.

    Raises:
        Exception: an error of the result backend or the broker; all of it must be repeated.
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
        if execution.callbacks is None:
            return
        try:
            _call_back(app, execution, request)
        except _NEVER as error:
            _fail(app, execution, request, error)  # like Celery; it would fail at each repetition


def forget_result(app: Celery, saga_id: str) -> None:
    """Delete the result of a saga; wait while all connections of the backend are in use."""
    when_free(lambda: app.backend.forget(saga_id))


def drop_result(app: Celery, saga_id: str) -> bool:
    """Delete the final result that a saga has left; returns whether there was one.

    Raises:
        StoreUnavailable: the result backend is unavailable.
    """
    try:
        old = when_free(lambda: app.backend.get_state(saga_id)) in states.READY_STATES
        if old:
            forget_result(app, saga_id)
    except Exception as error:
        raise StoreUnavailable(f"the result backend does not answer: {error}") from error
    return old


def store_result(app: Celery, execution: SagaExecution, request: Any) -> None:
    """Store the result of a completed saga, unless it has none."""
    if execution.wants_result:
        result = dict(execution.view(()))
        app.backend.store_result(execution.saga_id, result, states.SUCCESS, request=request)


def restore(app: Celery, execution: SagaExecution) -> None:
    """Store the result of a settled saga again; its callers are notified already."""
    request = request_of(execution)
    if execution.status is SagaStatus.COMPLETED:
        store_result(app, execution, request)
    elif execution.wants_result:
        error = failure_of(execution)
        app.backend.mark_as_failure(execution.saga_id, error, request=request, call_errbacks=False)


def _fail(app: Celery, execution: SagaExecution, request: Any, error: Exception) -> None:
    app.backend.mark_as_failure(
        execution.saga_id, error, request=request, store_result=execution.wants_result
    )


def _call_back(app: Celery, execution: SagaExecution, request: Any) -> None:
    """Call the callbacks, the rest of the chain, and the chord, as after a task that succeeded."""
    result = dict(execution.view(()))
    options = {"parent_id": _last_task(execution), "root_id": request.root_id}
    if app.conf.task_inherit_parent_priority:
        options["priority"] = request.delivery_info.get("priority")
    # Each of them is data of a signature, so None is not a result.
    found: list[Any] = [maybe_signature(each, app=app) for each in request.callbacks or ()]
    groups = [each for each in found if isinstance(each, group)]
    single = [each for each in found if not isinstance(each, group)]
    for each in [*groups, *([group(single, app=app)] if len(single) > 1 else single)]:
        each.apply_async((result,), **options)
    if request.chain:
        *rest, last = request.chain
        following: Any = maybe_signature(last, app=app)
        following.apply_async((result,), chain=rest, **options)
    # The result itself is stored already; this is for the chord.
    app.backend.mark_as_done(execution.saga_id, result, request, store_result=False)


def _last_task(execution: SagaExecution) -> str:
    """The parent of callbacks: the task that started the saga, or else its last step's task."""
    if execution.parent_id == execution.saga_id:
        return execution.saga_id
    path = execution.steps.paths()[-1]
    return StepRef(path, Direction.FORWARD, execution.steps[path].epoch).task_id(execution.saga_id)


@contextmanager
def _as_the_task(app: Celery, request: Any) -> Iterator[None]:
    """Run callbacks so that they are not children of the step whose task runs here."""
    task = app.tasks[START]
    _task_stack.push(task)
    task.request_stack.push(request)
    try:
        yield
    finally:
        task.request_stack.pop()
        _task_stack.pop()


def track(app: Celery, store: Store, saga_id: str) -> None:
    """Store the progress of a saga for a step that has just been claimed; never raises.

    From the first claim on, a saga's result is its progress, for ``AsyncResult(saga_id).state``. As
    for tasks it costs a write per step, and is stored if ``task_track_started`` is set.

    While a claim is held the saga does not settle, unless the worker of the claim is considered
    lost. The end of such a saga, which this write may have replaced, is stored again. (Some of
    Celery's backends refuse to replace a success, but read it first and write then.)
    """
    try:
        execution = store.load(saga_id, context=False)
        if execution is None or execution.settled or not execution.wants_result:
            return
        request = request_of(execution)
        app.backend.store_result(saga_id, progress_of(execution), states.STARTED, request=request)
        after = store.load(saga_id, context=False)
        if after is not None and after.settled:
            whole = store.load(saga_id)
            if whole is not None:
                restore(app, whole)
    except Exception:
        # The step is more important than the display of its progress.
        extra = log_fields(saga_id)
        log.warning(
            "saga %s: its progress could not be stored", saga_id, exc_info=True, extra=extra
        )
