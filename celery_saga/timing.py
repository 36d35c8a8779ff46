"""The times that a start may name, as seconds from now."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from math import isfinite
from typing import Any

from celery import Celery
from celery.utils.time import maybe_make_aware


def starts_in(app: Celery, countdown: Any, eta: Any) -> float | None:
    """Seconds until the first step is sent; ``None``: at once. A time that is over is now.

    Args:
        app: whose time zone Celery's conversion asks for; a naive ``eta`` is in UTC, as a task's.
        countdown: seconds, 0 or more.
        eta: a datetime.

    Raises:
        ValueError: both are given, or one is not what it should be.
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


def ends_in(app: Celery, deadline: Any, start: float | None) -> float | None:
    """Seconds until the way forward is given up; ``None``: never.

    Args:
        deadline: seconds, a timedelta, or a datetime.
        start: seconds until the first step; the deadline comes after it.

    Raises:
        ValueError: it is none of these, or it leaves no time.
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
