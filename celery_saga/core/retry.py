"""Retries of store calls: while a store is unavailable, and after another writer's save."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from celery_saga.errors import StoreUnavailable

T = TypeVar("T")

#: How often a change is attempted. An attempt is lost if another writer saved first, and few write
#: one saga at a time: its step, the sweep, an operator, and later the branches of a parallel group.
SAVE_ATTEMPTS = 64

#: Seconds before the second retry, and at most. The first is immediate, because two writers are the
#: common case; with more writers, pauses of random length keep them apart.
CONFLICT_PAUSE, LONGEST_CONFLICT_PAUSE = 0.002, 0.1

#: Pauses between two attempts, in seconds; the last one repeats.
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class SavedByOthers(StoreUnavailable):
    """Other writers saved one saga first at each attempt; it says nothing about other sagas."""


def retry_while_unavailable(call: Callable[[], T], timeout: float) -> T:
    """Repeat ``call`` while the store is unavailable, for ``timeout`` seconds.

    Raises:
        StoreUnavailable: it was unavailable for longer.
    """
    deadline, attempts = time.monotonic() + timeout, 0
    while True:
        try:
            return call()
        except StoreUnavailable:
            pause = PAUSES[min(attempts, len(PAUSES) - 1)]
            if time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
            attempts += 1


def pauses_after_conflicts(timeout: float = 0.0) -> Iterator[float]:
    """Yield the seconds to wait after each lost attempt: none, then random and increasing.

    They end after :data:`SAVE_ATTEMPTS`, but not before ``timeout`` seconds have passed.
    """
    deadline, longest = time.monotonic() + timeout, CONFLICT_PAUSE
    yield 0.0
    tries = 1
    while tries < SAVE_ATTEMPTS or time.monotonic() < deadline:
        yield random.uniform(0.0, longest)
        longest = min(2 * longest, LONGEST_CONFLICT_PAUSE)
        tries += 1
