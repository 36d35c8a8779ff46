"""Keeps forks of a worker's main process apart from the calls of the engine's threads.

A process that is forked while another thread holds a lock inherits the held lock for ever. Celery
and kombu have such locks in their connections and events. A worker's main thread forks whenever a
process of its pool has ended, and the heartbeat's threads may call the store or the broker at any
moment. So a fork waits until no such call runs, and new calls wait for the fork.

Writing a log record is such a call too. Python makes the locks of its log handlers new in a child,
but not the lock of the stream that they write to. And a thread whose call a fork has waited for may
write a record next.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from celery_saga.core.recovery.policy import POLICY

T = TypeVar("T")

#: Seconds for which a fork waits.
WAIT_TIMEOUT = POLICY.fork_wait


class _Gate:
    """Allows calls, many at a time, while the process does not fork."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls, self._forking = 0, False
        self._mine = threading.local()

    @contextmanager
    def call(self) -> Iterator[None]:
        if getattr(self._mine, "inside", False):
            yield  # a call inside a call, for whose end a fork waits already
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._forking, WAIT_TIMEOUT)
            self._calls += 1
        self._mine.inside = True
        try:
            yield
        finally:
            self._mine.inside = False
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def close(self) -> None:
        self._changed.acquire()
        self._forking = True
        self._changed.wait_for(lambda: not self._calls, WAIT_TIMEOUT)

    def open(self) -> None:
        self._forking = False
        self._changed.notify_all()
        self._changed.release()


_gate = _Gate()


def _new_gate() -> None:
    """Make a new gate: the child does not have the threads that were counted."""
    global _gate
    _gate = _Gate()


os.register_at_fork(
    before=lambda: _gate.close(), after_in_parent=lambda: _gate.open(), after_in_child=_new_gate
)


class Unforked:
    """Wraps an object; this process does not fork while one of its calls runs.

    Args:
        inner: the object; the main thread, which forks, calls its methods directly.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or threading.current_thread() is threading.main_thread():
            return found

        @wraps(found)
        def call(*args: Any, **options: Any) -> Any:
            with _gate.call():
                return found(*args, **options)

        return call


def unforked(part: T) -> T:
    """Wrap a part of the engine, so that this process does not fork while a call of it runs."""
    return cast("T", Unforked(part))


def unforked_log(log: logging.Logger) -> None:
    """Prevent forks while a thread other than the main one writes a record of ``log``.

    Calling it again changes nothing.
    """
    handle = log.handle
    if getattr(handle, "unforked", False):
        return

    @wraps(handle)
    def unforked(record: logging.LogRecord) -> None:
        if threading.current_thread() is threading.main_thread():
            handle(record)
        else:
            with _gate.call():
                handle(record)

    unforked.unforked = True  # type: ignore[attr-defined]
    log.handle = unforked  # type: ignore[method-assign]
