"""Waiting out a store that is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from celery_saga.errors import StoreUnavailable

T = TypeVar("T")

#: Pauses between two attempts at a store that is away, in seconds; the last one repeats.
PATIENCE_STEPS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def patiently(call: Callable[[], T], patience: float) -> T:
    """Repeat ``call`` while the store is away, for ``patience`` seconds."""
    give_up, tried = time.monotonic() + patience, 0
    while True:
        try:
            return call()
        except StoreUnavailable:
            pause = PATIENCE_STEPS[min(tried, len(PATIENCE_STEPS) - 1)]
            if time.monotonic() + pause > give_up:
                raise
            time.sleep(pause)
            tried += 1
