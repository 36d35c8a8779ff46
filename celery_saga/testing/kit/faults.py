"""What a test lets happen to a step instead of, before or after its body."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded

Body = Callable[..., Any]


class ProcessEnded(BaseException):
    """Ends a body the way the death of its process does: no handler of the task's own runs."""

    def __init__(self, hard_limit: bool = False) -> None:
        super().__init__()
        self.hard_limit = hard_limit


class Kind(str, Enum):
    """What happens."""

    FAILS = "fails"  #: an exception in place of the body
    FAILS_AFTER = "fails after its body"
    LOST = "loses its worker before its body"
    LOST_AFTER = "loses its worker after its body"
    LIMIT = "hits its hard time limit"
    SOFT_LIMIT = "hits its soft time limit"
    RETURNS = "returns a value of the test's"
    TAKES = "takes some time"
    TWICE = "runs twice"

    __str__ = str.__str__


@dataclass(frozen=True)
class Fault:
    """One thing that happens to a step, or to its compensation.

    Args:
        step: the step's name, as in ``expect_ran()``; a name without ``[7]`` is of every item.
        direction: ``"f"`` for the action, ``"c"`` for the compensation.
        kind: see :class:`Kind`.
        times: to how many attempts; ``None``: to all of them.
        error: the exception, or its class.
        value: what is returned.
        seconds: how long it takes, in the time of the test's clock.
        seen: is called between the two times of a body that runs twice, and after the second.
    """

    step: str
    direction: str
    kind: Kind
    times: int | None = None
    error: BaseException | type[BaseException] | None = None
    value: Any = None
    seconds: float = 0.0
    seen: Callable[[], None] | None = field(default=None, compare=False)

    def is_of(self, name: str, direction: str) -> bool:
        """Whether it happens to the step of that name."""
        plain = name.partition("[")[0]
        return self.direction == direction and self.step in (name, plain)

    def applied(self, body: Body, advance: Callable[[float], None]) -> Body:
        """The body to run instead.

        Args:
            advance: lets time pass.
        """
        kind = self.kind
        if kind in (Kind.FAILS, Kind.LOST, Kind.RETURNS):
            return self._in_place
        if kind is Kind.TAKES:
            return _after(body, lambda result: _passed(result, advance, self.seconds))
        if kind is Kind.TWICE:
            return _twice(body, self.seen or _nothing)
        return _after(body, lambda result: self._in_place())

    def _in_place(self, /, *args: Any, **kwargs: Any) -> Any:
        if self.kind is Kind.RETURNS:
            return copy.deepcopy(self.value)
        if self.kind in (Kind.LOST, Kind.LOST_AFTER, Kind.LIMIT):
            raise ProcessEnded(self.kind is Kind.LIMIT)
        if self.kind is Kind.SOFT_LIMIT:
            raise SoftTimeLimitExceeded()
        raise _exception(self.error)

    def __str__(self) -> str:
        what = "compensation" if self.direction == "c" else "step"
        return f"{what} {self.step!r} {self.kind}"


def _exception(given: BaseException | type[BaseException] | None) -> BaseException:
    """The exception to raise."""
    if given is None:
        return RuntimeError("this test lets it fail")
    return given() if isinstance(given, type) else given.with_traceback(None)


def _nothing() -> None:
    pass


def _passed(result: Any, advance: Callable[[float], None], seconds: float) -> Any:
    advance(seconds)
    return result


def _after(body: Body, then: Callable[[Any], Any]) -> Body:
    """The body, and ``then`` with its result; of a coroutine function with what it awaits."""

    def run(*args: Any, **kwargs: Any) -> Any:
        result = body(*args, **kwargs)
        return _awaited(result) if inspect.isawaitable(result) else then(result)

    async def _awaited(result: Any) -> Any:
        return then(await result)

    return run


def _twice(body: Body, seen: Callable[[], None]) -> Body:
    """The body run a second time, as after a lost report: with the same arguments and keys."""

    def run(*args: Any, **kwargs: Any) -> Any:
        first = body(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        if inspect.isawaitable(first):
            return _awaited(first, args, kwargs)
        seen()
        result = body(*args, **kwargs)
        seen()
        return result

    async def _awaited(first: Any, args: Any, kwargs: Any) -> Any:
        await first
        seen()
        result = await body(*args, **kwargs)
        seen()
        return result

    return run
