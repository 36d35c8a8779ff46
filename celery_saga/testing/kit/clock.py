"""The clock of the sagas under test."""

from __future__ import annotations

from math import isfinite

#: Where it begins, in seconds since the epoch: 2026-01-01 00:00 UTC.
BEGIN = 1_767_225_600.0


class VirtualClock:
    """The time of the sagas under test, in seconds since the epoch; it does not pass by itself.

    A run sets it forward to whatever is due next (a retry, a ``sleep_step()``, a timeout), so that
    no test waits. The process's own time is not changed.
    """

    def __init__(self) -> None:
        self._now = BEGIN

    def __call__(self) -> float:
        return self._now

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return self._now - BEGIN

    def advance(self, seconds: float) -> None:
        """Let time pass; what has become due is done when a run continues.

        Raises:
            ValueError: it is not a number of seconds, or negative.
        """
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not number or not isfinite(seconds) or seconds < 0:
            raise ValueError(f"advance: expected 0 seconds or more, found {seconds!r}")
        self._now += seconds

    def set_forward(self, at: float) -> None:
        """Let the time be ``at``, unless it is later already."""
        self._now = max(self._now, at)
