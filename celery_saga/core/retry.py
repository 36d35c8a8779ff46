"""How long calls of a store are retried: one that is unavailable, or a save that others beat."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from celery_saga.errors import StoreUnavailable

T = TypeVar("T")

#: How often a change is tried. A lost try means that another writer won, and few write one saga at
#: a time: its step, the sweep, an operator, and later the branches of a parallel group.
SAVE_ATTEMPTS = 64

#: Seconds before the second try again, and at most. The first comes at once, as two writers are the
#: common case; with more, pauses of random length keep them from meeting each time.
CONFLICT_PAUSE, LONGEST_CONFLICT_PAUSE = 0.002, 0.1

#: Pauses between two attempts, in seconds; the last one repeats.
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class SavedByOthers(StoreUnavailable):
    """Others saved one saga first, each time; it says nothing of other sagas."""


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
    """Seconds after each try that was lost: none, then of random length, ever longer.

    They end after :data:`SAVE_ATTEMPTS`, but not before ``timeout`` seconds are over.
    """
    deadline, longest = time.monotonic() + timeout, CONFLICT_PAUSE
    yield 0.0
    tries = 1
    while tries < SAVE_ATTEMPTS or time.monotonic() < deadline:
        yield random.uniform(0.0, longest)
        longest = min(2 * longest, LONGEST_CONFLICT_PAUSE)
        tries += 1
