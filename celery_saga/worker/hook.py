"""Wraps the tasks of an app with the engine, and verifies that each one is wrapped.

Celery reads ``app.annotations`` for every task class when it binds it. The hook's object replaces
it and adds a ``__call__`` outside of autoretry's wrapper, which passes every call without the
engine's header to the task unchanged. It is combined with the user's own ``task_annotations`` when
the first task is bound, so it does not matter when the configuration is read. Tasks that were bound
before, or whose wrapper an annotation of the user's replaced, get the wrapper set on their class
when the app is finalized and when a worker starts.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from celery import Celery, Task
from celery.app.annotations import prepare
from celery.app.task import Task as BaseTask
from celery.exceptions import Reject, Retry, WorkerShutdown, WorkerTerminate
from celery.utils.functional import firstmethod

from celery_saga.core import info
from celery_saga.core.execution import StepRef
from celery_saga.definition.tasks.declarations import INNER, RUN, run_in
from celery_saga.errors import AbortSaga, SagaExecutionException, SetupError
from celery_saga.messaging.events import EndReportingRequest
from celery_saga.runtime import runtime_of
from celery_saga.worker.delivery import delivery_of, preserve_headers, restore_header
from celery_saga.worker.eager import enclosing_task
from celery_saga.worker.receivers import body_aborted
from celery_saga.worker.step_runner import run_step

log = logging.getLogger("celery_saga")

_MARK = "_celery_saga_hook"

#: Modules whose ``Task.__call__`` is Celery's own, as it is and as a worker installs it.
_CELERYS_OWN = ("celery.app.task", "celery.app.trace")

Call = Callable[..., Any]

#: Requests of the tasks that run in this process, by identity; a request keeps no attribute.
_running: dict[int, Any] = {}

#: The messages that Celery makes while it sends a step's retry.
_messages: ContextVar[list[Any] | None] = ContextVar("celery_saga_messages", default=None)


def hooked(cls: type[Any]) -> bool:
    """Whether calls of the task class go through the engine."""
    return _marked(cls.__call__)


def _marked(call: Any) -> bool:
    while call is not None:
        if getattr(call, _MARK, False):
            return True
        call = getattr(call, "__wrapped__", None)
    return False


def _method(found: Any, task: Task[Any, Any]) -> Call:
    """Bind an attribute of a class to a task: a function, a static method, an object..."""
    get = getattr(type(found), "__get__", None)
    return found if get is None else get(found, task, type(task))  # type: ignore[no-any-return]


def wrap_call(inner: Any) -> Call:
    """Make a ``__call__`` that runs deliveries of steps by the engine, other calls unchanged."""
    plain = getattr(inner, "__module__", "") in _CELERYS_OWN

    def __call__(task: Task[Any, Any], /, *args: Any, **kwargs: Any) -> Any:
        request: Any = task.request_stack.top
        if request is None or request.called_directly or id(request) in _running:
            # A direct call, or the task called from its own body.
            return _method(BaseTask.__call__ if plain else inner, task)(*args, **kwargs)
        # Celery's tracer runs task.run directly if __call__ is its own; so does this wrapper.
        body = task.run if plain else _method(inner, task)
        _running[id(request)] = request
        try:
            delivery = delivery_of(request) or restore_header(task.app, request)
            with enclosing_task(request):
                if delivery is None:
                    return run_outside_saga(body, args, kwargs)
                return _as_step(task, request, delivery, body, args, kwargs)
        finally:
            del _running[id(request)]

    # No functools.wraps: Celery unwraps what has __wrapped__ when an annotation wraps it.
    setattr(__call__, INNER, inner)
    return __call__


def _as_step(
    task: Task[Any, Any],
    request: Any,
    delivery: tuple[str, StepRef],
    body: Call,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    try:
        return run_step(runtime_of(task.app), request, delivery, body, args, kwargs)
    except (Exception, WorkerShutdown, WorkerTerminate):
        raise
    except BaseException:
        body_aborted(request.id)
        raise


def run_outside_saga(body: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a task that is not a step, even inside of a step's body."""
    if info.current.get() is None:
        return body(*args, **kwargs)
    token = info.current.set(None)
    try:
        return body(*args, **kwargs)
    finally:
        info.current.reset(token)


def _retrying(inner: Any) -> Call:
    """Make a ``retry`` that does not retry an abort: autoretry requests one for any error.

    If the broker does not accept the retry, Celery would drop the task. The engine records the
    retry, and the sweep sends it. A project's own ``retry`` may have any parameters, so it gets
    exactly those of the call.
    """

    def retry(task: Task[Any, Any], /, *args: Any, **options: Any) -> Any:
        method = _method(inner, task)
        if delivery_of(task.request) is None:
            return method(*args, **options)
        errors = (it for it in (*args, options.get("exc")) if isinstance(it, BaseException))
        exc = next(errors, None)
        if isinstance(exc, AbortSaga):
            raise exc
        made: list[Any] = []
        token = _messages.set(made)
        try:
            return method(*args, **options)
        except Reject as error:
            if not made:
                raise
            log.warning("task %s: its retry could not be sent, the sweep will", task.request.id)
            raise _retry_of(made[-1], exc) from error
        finally:
            _messages.reset(token)

    return retry


def _retry_of(message: Any, exc: BaseException | None) -> Retry:
    """Make the exception that Celery raises after it has sent ``message``."""
    when: Any = message.options.get("eta")
    wanted: Any = Retry
    made: Retry = wanted(
        exc=exc, when=message.options.get("countdown") if when is None else when, sig=message
    )
    return made


def _making_retries(inner: Any) -> Call:
    """Make a ``signature_from_request`` that keeps the engine's header.

    All retries are made here, whichever ``retry`` a task's class has.
    """

    def signature_from_request(task: Task[Any, Any], /, *args: Any, **options: Any) -> Any:
        message, request = _method(inner, task)(*args, **options), task.request
        given = getattr(message, "options", None)
        if (
            delivery_of(request) is not None
            and isinstance(given, dict)
            and given.get("task_id") == request.id
        ):
            preserve_headers(request, given)
            if (made := _messages.get()) is not None:
                made.append(message)
        return message

    return signature_from_request


def _replacing(inner: Any) -> Call:
    """Make a ``replace`` that refuses inside a step, because the other task would not report."""

    def replace(task: Task[Any, Any], /, *args: Any, **kwargs: Any) -> Any:
        if delivery_of(task.request) is not None:
            raise SagaExecutionException(
                f"task {task.name!r}: self.replace() inside a step of a saga is not supported; "
                f"make the other task a step of its own, or call it with .delay()"
            )
        return _method(inner, task)(*args, **kwargs)

    return replace


_WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "__call__": wrap_call,
    "retry": _retrying,
    "signature_from_request": _making_retries,
    "replace": _replacing,
    "Request": EndReportingRequest,
}


def _hooks(cls: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """The attributes of the hook that a task class lacks.

    Args:
        given: attributes that the class will get; those that the hook wraps are removed from it.
    """
    found: dict[str, Any] = {} if RUN in vars(cls) else {RUN: run_in(cls)}
    for name, wrap in _WRAPPERS.items():
        inner = given.pop(name, None)
        if inner is None:
            if _marked(getattr(cls, name)):
                continue
            inner = inspect.getattr_static(cls, name)
        found[name] = wrap(inner)
        setattr(found[name], _MARK, True)
    return found


class Annotations:
    """Replaces ``app.annotations``: the user's own, with the hook added.

    Args:
        app: the app; its configuration is not read before the first task is bound.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def __iter__(self) -> Iterator[Any]:
        yield _Hooking(prepare(self._app.conf.task_annotations))


class _Hooking:
    """Celery uses only the first annotation that applies, so this one wraps the others."""

    def __init__(self, users: Any) -> None:
        self._users = list(users)

    def annotate(self, task: type[Any]) -> dict[str, Any]:
        found = dict(self._first("annotate", task) or {})
        if (task.name or "").startswith("celery_saga."):
            return found
        # The hook's first: the dict is applied in order, and the user's '@__call__' wraps it.
        return {**_hooks(task, found), **found}

    def annotate_any(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._first("annotate_any")
        return found

    def _first(self, method: str, *args: Any) -> Any:
        # Celery's own rule, which skips user objects that lack the method.
        matching: Any = firstmethod
        return matching(method)(self._users, *args)


def hook(app: Celery) -> None:
    """Replace the app's annotations; reads no configuration."""
    vars(app)["annotations"] = Annotations(app)  # where the cached property keeps its value


def verify(app: Celery) -> None:
    """Wrap the tasks that are not wrapped yet.

    Raises:
        SetupError: a task cannot be wrapped.
    """
    for name, task in app.tasks.items():
        cls = type(task)
        if name.startswith(("celery.", "celery_saga.")):
            continue
        try:
            for attribute, method in _hooks(cls, {}).items():
                setattr(cls, attribute, method)
        except (AttributeError, TypeError) as error:
            raise SetupError(
                f"task {name!r} cannot take part in sagas: its class {cls.__name__!r} refuses a "
                f"__call__; move 'SagaManager(app)' to the line after 'app = Celery(...)', before "
                f"the task is declared"
            ) from error
