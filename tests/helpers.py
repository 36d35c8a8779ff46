"""What several test modules need; no assertions about the library itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psutil

from celery_saga.core import info

T = TypeVar("T")


@contextmanager
def delivery(
    saga_id: str,
    direction: str = "f",
    round: int = 0,
    of: int = 0,
    step: str = "pay",
    commits: str = "",
) -> Iterator[None]:
    """The engine's context of a step's body.

    Args:
        of: the round of the step that is compensated.
        commits: the step of a commit task.
    """
    forward = f"{saga_id}/{commits or step}/f/{of if direction == 'c' else round}"
    own = f"{saga_id}/{step}/{direction}/{round}"
    about = info.SagaInfo(saga_id, "shop", step, direction, 1, round, own, forward)
    token = info.current.set(lambda: about)
    try:
        yield
    finally:
        info.current.reset(token)


def wait_for(
    condition: Callable[[], T],
    timeout: float = 30.0,
    *,
    description: str = "",
    interval: float = 0.008,
) -> T:
    """Return the condition's first true value.

    Args:
        condition: called again and again, from this thread; its errors pass through.
        timeout: seconds until this fails.
        description: what is awaited, for the failure's text; by default the condition's name.
        interval: seconds between two calls.

    Raises:
        AssertionError: the condition stayed false.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            awaited = description or getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"{timeout:g} s were not enough for {awaited}: last {value!r}")
        pause.wait(interval)


def has_exited(pid: int) -> bool:
    """Whether the process has ended; one that is dead but not yet reaped has ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
