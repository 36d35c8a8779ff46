"""What a test has written down for the steps of one run, and how much of it has happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from celery_saga.testing.kit.faults import Body, Fault, Kind

#: They happen beside another one of the same attempt.
_BESIDE = (Kind.TAKES, Kind.TWICE)


class Script:
    """The faults of one run, in the order in which they are used up.

    Args:
        faults: what happens to its steps.
        advance: lets time pass.
    """

    def __init__(self, faults: Sequence[Fault], advance: Callable[[float], None]) -> None:
        self._faults, self._advance = faults, advance
        self._used: Counter[int] = Counter()

    def applied(self, name: str, direction: str, body: Body) -> Body:
        """The body that the next attempt of a step runs."""
        for number in self._next(name, direction):
            self._used[number] += 1
            body = self._faults[number].applied(body, self._advance)
        return body

    def _next(self, name: str, direction: str) -> Iterator[int]:
        """Numbers of the faults of the next attempt: one that decides its end comes last."""
        left = [
            number
            for number, fault in enumerate(self._faults)
            if fault.is_of(name, direction)
            and (fault.times is None or self._used[number] < fault.times)
        ]
        yield from (number for number in left if self._faults[number].kind in _BESIDE)
        decisive = (number for number in left if self._faults[number].kind not in _BESIDE)
        yield from [number for number in decisive][:1]

    @property
    def unused(self) -> list[Fault]:
        """The faults that have not happened, because their steps did not run."""
        return [fault for number, fault in enumerate(self._faults) if not self._used[number]]

    def replaces(self, name: str, direction: str) -> bool:
        """Whether the next attempt of a step does without its body."""
        kinds = [self._faults[number].kind for number in self._next(name, direction)]
        return bool(kinds) and kinds[-1] in (Kind.FAILS, Kind.LOST, Kind.RETURNS)
