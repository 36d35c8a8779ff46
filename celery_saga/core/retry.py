"""Retry a call while the store is unavailable."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from celery_saga.errors import StoreUnavailable

T = TypeVar("T")

#: Pauses between two attempts, in seconds; the last one repeats.
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


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
