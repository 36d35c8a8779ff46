"""How the engine gets round the tasks of an app, and how it makes sure that it did.

Celery asks ``app.annotations`` for every task class as it binds it. An object of ours stands there
and adds a ``__call__``, outside of autoretry's wrapper, which passes every call without the saga
header straight through. It composes with the user's own ``task_annotations`` when the first task is
bound, so it does not matter when the configuration is read. Tasks that were bound before, or that
an annotation of the user's unhooked, get the same wrapper set on their class when the app is
finalized and when a worker starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from celery import Celery, Task
from celery.app.annotations import prepare
from celery.app.task import Task as BaseTask
from celery.exceptions import Reject, Retry, WorkerShutdown, WorkerTerminate
from celery.utils.functional import firstmethod

from celery_saga import info
from celery_saga.delivery import delivery_of, keep_ours, recognized
from celery_saga.errors import AbortSaga, SagaExecutionException, SetupError
from celery_saga.hosts import inside
from celery_saga.participant import run_step
from celery_saga.reports import body_cut_off
from celery_saga.runtime import runtime_of

log = logging.getLogger("celery_saga")

_MARK = "_celery_saga_hook"

#: Modules whose ``Task.__call__`` is Celery's own, as it is and as a worker installs it.
_CELERYS_OWN = ("celery.app.task", "celery.app.trace")

Call = Callable[..., Any]


def hooked(cls: type[Any]) -> bool:
    """Whether calls of the task class go through the engine."""
    call: Any = cls.__call__
    while call is not None:
        if getattr(call, _MARK, False):
            return True
        call = getattr(call, "__wrapped__", None)
    return False


def around(inner: Any) -> Call:
    """A ``__call__`` that runs deliveries of steps through the engine and all else as before."""
    plain = getattr(inner, "__module__", "") in _CELERYS_OWN

    def __call__(task: Task[Any, Any], *args: Any, **kwargs: Any) -> Any:
        request: Any = task.request_stack.top
        outermost = (
            request is not None
            and not request.called_directly
            and "_saga_seen" not in request.__dict__
        )
        if not outermost:
            # A direct call, or the task called from its own body.
            return (BaseTask.__call__ if plain else inner)(task, *args, **kwargs)
        request._saga_seen = True
        # Celery's tracer runs task.run itself when __call__ is its own: so do we.
        body = task.run if plain else inner.__get__(task)
        delivery = delivery_of(request) or recognized(task.app, request)
        with inside(request):
            if delivery is None:
                return _by_itself(body, args, kwargs)
            try:
                return run_step(runtime_of(task.app), request, delivery, body, args, kwargs)
            except (Exception, WorkerShutdown, WorkerTerminate):
                raise
            except BaseException:
                body_cut_off(request.id)
                raise

    # No functools.wraps: Celery unwraps what carries __wrapped__ when an annotation wraps it.
    setattr(__call__, _MARK, True)
    return __call__


def _by_itself(body: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a task that is no step, also when a step runs it on the spot: it is not the step."""
    if info.current.get() is None:
        return body(*args, **kwargs)
    token = info.current.set(None)
    try:
        return body(*args, **kwargs)
    finally:
        info.current.reset(token)


def _retrying(inner: Any) -> Call:
    """A ``retry`` that lets an abort through: autoretry asks for one after any error it is for.

    And one that stands if the broker does not take it: Celery would give the task up. The engine
    takes note of the retry, and the sweep sends it.
    """

    def retry(
        task: Task[Any, Any],
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        *more: Any,
        **options: Any,
    ) -> Any:
        if delivery_of(task.request) is None:
            return inner(task, args, kwargs, exc, *more, **options)
        if isinstance(exc, AbortSaga):
            raise exc
        keep_ours(task.request, options)
        try:
            return inner(task, args, kwargs, exc, *more, **options)
        except Reject as error:
            log.warning("task %s: its retry could not be sent, the sweep will", task.request.id)
            given = dict(zip(("throw", "eta", "countdown"), more, strict=False)) | options
            when: Any = given.get("eta") or given.get("countdown")
            wanted: Any = Retry
            raise wanted(
                exc=exc, when=task.default_retry_delay if when is None else when
            ) from error

    return retry


def _replacing(inner: Any) -> Call:
    """A ``replace`` that refuses inside a step: the engine would never hear of the other task."""

    def replace(task: Task[Any, Any], *args: Any, **kwargs: Any) -> Any:
        if delivery_of(task.request) is not None:
            raise SagaExecutionException(
                f"task {task.name!r}: self.replace() inside a step of a saga is not supported; "
                f"make the other task a step of its own, or call it with .delay()"
            )
        return inner(task, *args, **kwargs)

    return replace


def _hooks(cls: type[Any], inner: Any) -> dict[str, Call]:
    """What a task class gets; ``inner`` is the ``__call__`` that it would have without."""
    return {
        "__call__": around(inner),
        "retry": _retrying(cls.retry),
        "replace": _replacing(cls.replace),
    }


class Annotations:
    """Stands in for ``app.annotations``: the user's own, with the hook added.

    Args:
        app: the app; its configuration is not read before the first task is bound.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def __iter__(self) -> Iterator[Any]:
        yield _Hooking(prepare(self._app.conf.task_annotations))


class _Hooking:
    """The first annotation that answers is the only one Celery uses, so this one wraps the rest."""

    def __init__(self, users: Any) -> None:
        self._users = list(users)

    def annotate(self, task: type[Any]) -> dict[str, Any]:
        found = dict(self._first("annotate", task) or {})
        if (task.name or "").startswith("celery_saga."):
            return found
        inner = found.pop("__call__", None)
        if inner is None and hooked(task):
            return found
        # Ours first: the dict is applied in order, and '@__call__' of the user's wraps it.
        return {**_hooks(task, inner or task.__call__), **found}

    def annotate_any(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._first("annotate_any")
        return found

    def _first(self, method: str, *args: Any) -> Any:
        # Celery's own rule, which passes over users' objects that lack the method.
        matching: Any = firstmethod
        return matching(method)(self._users, *args)


def hook(app: Celery) -> None:
    """Take the place of the app's annotations; reads no configuration."""
    vars(app)["annotations"] = Annotations(app)  # where the cached property keeps its value


def verify(app: Celery) -> None:
    """Hook what slipped through.

    Raises:
        SetupError: a task cannot be hooked.
    """
    for name, task in app.tasks.items():
        cls = type(task)
        if name.startswith(("celery.", "celery_saga.")) or hooked(cls):
            continue
        try:
            for attribute, method in _hooks(cls, cls.__call__).items():
                setattr(cls, attribute, method)
        except (AttributeError, TypeError) as error:
            raise SetupError(
                f"task {name!r} cannot take part in sagas: its class {cls.__name__!r} refuses a "
                f"__call__; move 'SagaManager(app)' to the line after 'app = Celery(...)', before "
                f"the task is declared"
            ) from error
