"""Tasks in the shapes in which users write them, and how each is called.

A row is run by itself on an app without the plugin and on one with it, and as a step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import MagicMock

from celery import Celery, Task
from celery.worker import strategy
from celery.worker.request import Request

from celery_saga import AbortSaga

#: What the handlers of tasks were called with in this process.
handled: list[str] = []


@dataclass(frozen=True)
class Row:
    """One task.

    Args:
        kwargs: the arguments it is called with, by itself and as a step.
        expected: its result, or the exception that it raises.
        step: options that it needs as a step.
        refused: why it can be no step, where it cannot.
        failed: the type and text of what it fails with as a step, where it does so by design.
        args: arguments by position, for one that takes no other ones and can be no step.
        handled: what its handlers note.
    """

    expected: Any
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    failed: tuple[str, str] | None = None
    args: tuple[Any, ...] = ()
    handled: tuple[str, ...] = ()


class Bound:
    """Declares tasks on an app, and keeps their rows."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.tasks: dict[str, Any] = {}
        self.rows: dict[str, Row] = {}

    def task(self, row: Row, **options: Any) -> Callable[[Any], Any]:
        """As ``app.task``."""

        def declare(function: Any) -> Any:
            name = options.pop("name", function.__name__)
            declared: Any = self.app.task(name=f"shapes.{name}", shared=False, **options)(function)
            self.tasks[name], self.rows[name] = declared, row
            return declared

        return declare

    def register(self, row: Row, task: Any) -> None:
        """As ``app.register_task``."""
        name = task.name.partition(".")[2]
        self.tasks[name], self.rows[name] = self.app.register_task(task), row


# Classes of projects.


class RetryByError(Task):
    """A ``retry`` of the project's own, as its tasks call it."""

    def retry(self, exc: Any = None, **options: Any) -> Any:
        return super().retry(exc=exc, **{**options, "countdown": 0})


class RetryByOptions(Task):
    def retry(self, **options: Any) -> Any:
        return super().retry(**{**options, "countdown": 0})


class RetryWithoutOptions(Task):
    def retry(self, exc: Any = None, countdown: float = 0) -> Any:
        return super().retry(None, None, exc, True, None, countdown)


class RetryWithHeaders(Task):
    def retry(self, *args: Any, **options: Any) -> Any:
        given = {"countdown": 0, "headers": {"trace": "t"}}
        return super().retry(*args, **{**options, **given})


class RetryFixed(Task):
    retry = functools.partialmethod(Task.retry, countdown=0)  # type: ignore[assignment]


class RetryByHand(Task):
    """Sends the retry itself, as it is made of the request."""

    def retry(self, exc: Any = None, **options: Any) -> Any:
        from celery.exceptions import Retry

        message = self.signature_from_request(retries=self.request.retries + 1, countdown=0)
        if not self.request.is_eager:
            message.apply_async()
        wanted: Any = Retry
        raise wanted(exc=exc, when=0, is_eager=self.request.is_eager, sig=message)


class OwnSignature(Task):
    def signature_from_request(self, request: Any = None, *args: Any, **options: Any) -> Any:
        return super().signature_from_request(request, *args, **{**options, "countdown": 0})


class OwnReplace(Task):
    def replace(self, sig: Any, note: str = "") -> Any:
        return ["replaced by", sig, note]


class OwnStrategy(Task):
    """What a worker's consumer does with the message is the project's own business."""

    Strategy = "tests.worker.apps.shapes:own_strategy"


def own_strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    return strategy.default(task, app, consumer, **options)


class OwnRequest(Task):
    Request = "tests.worker.apps.shapes:RequestOfAProject"


class RequestOfAProject(Request):
    """Looks at what becomes of each task."""


class OwnCall(Task):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["called", self.run(*args, **kwargs)]


class CallThroughBase(Task):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["called", super().__call__(*args, **kwargs)]


class CallThatGives(Task):
    """Gives every task what it needs, as the class of a web framework's app does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, session="session", **kwargs)


class CallOfAnObject:
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["by an object", len(args), kwargs]


class CalledByAnObject(Task):
    __call__ = CallOfAnObject()  # type: ignore[assignment]


class Handlers(Task):
    def before_start(self, task_id: Any, args: Any, kwargs: Any) -> None:
        handled.append("before")

    def on_success(self, retval: Any, task_id: Any, args: Any, kwargs: Any) -> None:
        handled.append(f"success {retval}")

    def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        handled.append(f"failure {exc}")

    def after_return(
        self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        handled.append(f"after {status}")


class OwnApplyAsync(Task):
    """Sends something along with every message, which its calls take off again."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return super().apply_async(args, {**(kwargs or {}), "_tenant": "t"}, **options)

    def __call__(self, *args: Any, _tenant: str = "none", **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)

    def run(self, a: int, *, b: int = 2) -> int:
        return a + b


# Decorators of projects.


def with_wraps(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return ["wrapped", function(*args, **kwargs)]

    return wrapper


def without_wraps(function: Any) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return ["wrapped", function(*args, **kwargs)]

    wrapper.__name__ = function.__name__
    return wrapper


def giving(function: Any) -> Any:
    """Gives its function an argument."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function("session", *args, **kwargs)

    return wrapper


def taking(function: Any) -> Any:
    """Takes an argument for itself."""

    @functools.wraps(function)
    def wrapper(*args: Any, tenant: str, **kwargs: Any) -> Any:
        return [tenant, function(*args, **kwargs)]

    return wrapper


def with_names(function: Any) -> Any:
    """Hides the signature of its function behind another one."""

    @functools.wraps(function)
    def wrapper(a: int) -> Any:
        return function("session", a)

    return wrapper


class Callable_:
    """A callable object, with the names that Celery asks for."""

    __name__ = "callable_object"
    __annotations__: dict[str, Any] = {}

    def __call__(self, a: int, b: int = 2) -> int:
        return a + b


def scaled(rate: int, a: int) -> int:
    return rate * a


def _mock() -> Any:
    made = MagicMock(return_value="from a mock")
    made.__name__ = made.__qualname__ = "mocked"
    made.__annotations__ = {}
    return made


def declare(app: Celery) -> Bound:
    """The tasks of all shapes, on an app."""
    found = Bound(app)
    for part in (
        _named,
        _signatures,
        _decorated,
        _retries,
        _overrides,
        _replacing,
        _options,
        _canvas,
    ):
        part(found)
    return found


def _named(found: Bound) -> None:
    """Keyword arguments with the names that wrappers use for their own."""

    @found.task(Row("t", {"task": "t"}))
    def named_task(task: str) -> str:
        return task

    @found.task(Row(["a", "k"], {"args": "a", "kwargs": "k"}))
    def named_args(args: str, kwargs: str) -> list[str]:
        return [args, kwargs]

    @found.task(Row(["r", "s"], {"request": "r", "saga": "s"}))
    def named_request(request: str, saga: str) -> list[str]:
        return [request, saga]

    @found.task(Row("c", {"context": "c"}, step={"context": False}))
    def named_context(context: str) -> str:
        return context

    @found.task(Row([1, "s"], {"a": 1, "self": "s"}))
    def named_self(a: int, self: str) -> list[Any]:
        return [a, self]

    every = dict.fromkeys(("task", "args", "kwargs", "request", "context", "saga"), 1)

    @found.task(Row(6, every), bind=True)
    def named_all(
        self: Any, task: int, args: int, kwargs: int, request: int, context: int, saga: int
    ) -> int:
        return task + args + kwargs + request + context + saga


def _signatures(found: Bound) -> None:
    @found.task(Row(3, args=(1, 2), refused="positional-only"))
    def position_only(a: int, b: int, /) -> int:
        return a + b

    @found.task(Row([1, 2], {"b": 2}, step={"inputs": ["b"]}))
    def position_optional(a: int = 1, /, b: int = 3) -> list[int]:
        return [a, b]

    @found.task(Row([1, 3], {"a": 1}))
    def keyword_optional(a: int, *, b: int = 3) -> list[int]:
        return [a, b]

    @found.task(Row([1, 2, 3], {"a": 1, "b": 2, "c": 3}, step={"inputs": ["a", "b", "c"]}))
    def named_and_more(a: int, **options: Any) -> list[int]:
        return [a, *options.values()]

    @found.task(Row({"a": 1}, {"a": 1}, refused=r"give inputs=\[\.\.\.\]"))
    def unknown_keywords(**kwargs: Any) -> dict[str, Any]:
        return kwargs

    @found.task(Row(3, {"a": 1, "b": 2}))
    def keyword_only(*, a: int, b: int) -> int:
        return a + b

    @found.task(Row(0, step={"inputs": []}))
    def variable(*args: Any) -> int:
        return len(args)

    @found.task(Row({"a": 1}, {"a": 1}, step={"inputs": ["a"]}))
    def keywords(**kwargs: Any) -> dict[str, Any]:
        return kwargs

    @found.task(Row([1, [], {}], {"a": 1}))
    def one_and_all(a: int, *args: Any, **kwargs: Any) -> list[Any]:
        return [a, list(args), kwargs]

    class ClassBased(Task):
        name = "shapes.class_based"

        def run(self, a: int, *, b: int = 2) -> int:
            return a + b

    class OfAPartial(Task):
        """``@app.task`` takes no partial."""

        name = "shapes.of_a_partial"
        run = staticmethod(functools.update_wrapper(functools.partial(scaled, 3), scaled))

    class OfC(Task):
        """Its signature cannot be read."""

        name = "shapes.of_c"
        run = staticmethod(dict)

    found.register(Row(3, {"a": 1}), ClassBased())
    found.task(Row(3, {"a": 1}), name="callable_object", typing=False)(Callable_())
    found.register(Row(12, {"a": 4}), OfAPartial())
    found.register(Row({"a": 4}, {"a": 4}, step={"inputs": ["a"]}), OfC())
    found.task(Row("from a mock", {"a": 1}, step={"inputs": ["a"]}), name="mock", typing=False)(
        _mock()
    )


def _decorated(found: Bound) -> None:
    @found.task(Row(["wrapped", 3], {"a": 1, "b": 2}))
    @with_wraps
    def wraps(a: int, b: int) -> int:
        return a + b

    @found.task(Row(["wrapped", 1], {"a": 1}), bind=True)
    @with_wraps
    def wraps_bound(self: Any, a: int) -> int:
        return a

    @found.task(Row(["wrapped", 3], {"a": 1, "b": 2}, step={"inputs": ["a", "b"]}))
    @without_wraps
    def no_wraps(a: int, b: int) -> int:
        return a + b

    @found.task(Row(["wrapped", 3], {"a": 1, "b": 2}, refused=r"give inputs=\[\.\.\.\]"))
    @without_wraps
    def no_wraps_unknown(a: int, b: int) -> int:
        return a + b

    @found.task(Row(["wrapped", 1], {"a": 1}, step={"inputs": ["a"]}), bind=True)
    @without_wraps
    def no_wraps_bound(self: Any, a: int) -> int:
        return a

    @found.task(Row(["session", 1], {"a": 1}, step={"inputs": ["a"]}))
    @giving
    def given(session: str, a: int) -> list[Any]:
        return [session, a]

    @found.task(Row(["t", 1], {"a": 1, "tenant": "t"}))
    @taking
    def taken(a: int) -> int:
        return a

    @found.task(Row(["session", 1], {"a": 1}))
    @with_names
    def names(session: str, a: int) -> list[Any]:
        return [session, a]

    @found.task(
        Row(["session", 1], {"a": 1}, step={"inputs": ["a"]}), base=CallThatGives, typing=False
    )
    def given_by_the_class(a: int, session: str) -> list[Any]:
        return [session, a]


def _retries(found: Bound) -> None:
    """Tasks that are done at the third attempt."""
    three = Row("done after 2 retries")

    def automatic(self: Any) -> str:
        if self.request.retries < 2:
            raise KeyError("not yet")
        return f"done after {self.request.retries} retries"

    def by_hand(self: Any) -> str:
        if self.request.retries < 2:
            raise self.retry(exc=KeyError("not yet"))
        return f"done after {self.request.retries} retries"

    def aborting(self: Any) -> None:
        raise AbortSaga(f"after {self.request.retries}")

    kinds = (
        Task,
        RetryByError,
        RetryByOptions,
        RetryWithHeaders,
        RetryFixed,
        RetryByHand,
        OwnSignature,
    )
    again: dict[str, Any] = {"max_retries": 3, "default_retry_delay": 0, "bind": True}
    for base in kinds:
        name = base.__name__
        found.task(three, base=base, name=f"{name}_auto", autoretry_for=(KeyError,), **again)(
            automatic
        )
        found.task(three, base=base, name=f"{name}_by_hand", **again)(by_hand)
    found.task(three, base=RetryWithoutOptions, name="RetryWithoutOptions", **again)(by_hand)
    found.task(
        Row(AbortSaga("after 0")),
        base=RetryByError,
        name="aborting",
        **{**again, "max_retries": 0},
        autoretry_for=(Exception,),
    )(aborting)


def _overrides(found: Bound) -> None:
    def plain(a: int) -> int:
        return a

    def failing(a: int) -> int:
        raise ValueError(f"no {a}")

    one = {"a": 1}
    for base, expected in (
        (OwnCall, ["called", 1]),
        (CallThroughBase, ["called", 1]),
        (OwnApplyAsync, 1),
    ):
        found.task(Row(expected, one), base=base, name=base.__name__, typing=False)(plain)
    found.task(
        Row(["by an object", 0, {"a": 1}], one), base=CalledByAnObject, name="CalledByAnObject"
    )(plain)
    found.task(Row(1, one, refused="a strategy of its own"), base=OwnStrategy, name="OwnStrategy")(
        plain
    )
    found.task(Row(1, one), base=OwnRequest, name="OwnRequest")(plain)
    well = ("before", "success 1", "after SUCCESS")
    found.task(Row(1, one, handled=well), base=Handlers, name="handlers")(plain)
    failed = ("before", "failure no 1", "after FAILURE")
    found.task(Row(ValueError("no 1"), one, handled=failed), base=Handlers, name="failing")(failing)


def _replacing(found: Bound) -> None:
    """As a step both are refused: the engine would never hear of the other task."""
    refusal = (
        "celery_saga.errors.SagaExecutionException",
        "task 'shapes.{}': self.replace() inside a step of a saga is not supported",
    )

    def of(name: str, expected: Any) -> Row:
        return Row(expected, failed=(refusal[0], refusal[1].format(name)))

    @found.task(Row(7))
    def instead() -> int:
        return 7

    @found.task(of("replaces", 7), bind=True)
    def replaces(self: Any) -> Any:
        return self.replace(found.tasks["instead"].si())

    @found.task(of("own_replace", ["replaced by", "sig", "n"]), bind=True, base=OwnReplace)
    def own_replace(self: Any) -> Any:
        return self.replace("sig", note="n")


def _options(found: Bound) -> None:
    @found.task(Row(1, {"a": 1}), ignore_result=True)
    def ignored(a: int) -> int:
        return a

    @found.task(Row(1, {"a": 1}), ignore_result=False)
    def kept(a: int) -> int:
        return a

    @found.task(Row(3, {"a": 1}), typing=False)
    def untyped(a: int, b: int = 2) -> int:
        return a + b


def _canvas(found: Bound) -> None:
    """Celery's own tasks, which have a parameter named ``task``, run inside of another task."""
    tasks = found.tasks

    @found.task(Row(2, {"a": 1}))
    def double(a: int) -> int:
        return a * 2

    @found.task(Row(3, {"a": 1, "b": 2}))
    def add(a: int, b: int) -> int:
        return a + b

    @found.task(Row([2, 4]))
    def maps() -> Any:
        return tasks["double"].map([1, 2]).apply().result

    @found.task(Row([3, 7]))
    def starmaps() -> Any:
        return tasks["add"].starmap([(1, 2), (3, 4)]).apply().result

    @found.task(Row([[3], [7]]))
    def chunks() -> Any:
        return [
            part.result for part in tasks["add"].chunks([(1, 2), (3, 4)], 1).group().apply().results
        ]
