"""The site's app, whose pool processes are not forked while another thread is at the broker.

The heart's thread may hold a lock of kombu's or Celery's at the moment of a fork, and the new
process would then wait for it for ever: ``test_crash_points.py`` has a test of that. Tests of other
things, in which processes of the pool die, use this app.
"""

from __future__ import annotations

import os
import threading
from functools import wraps
from typing import Any

from celery_saga.runtime import runtime_of
from tests.worker.apps.site import app

__all__ = ["app", "wrap_orchestrators"]

_at_work = threading.RLock()
os.register_at_fork(
    before=_at_work.acquire, after_in_parent=_at_work.release, after_in_child=_at_work.release
)


class Guarded:
    """Another object, whose methods are not run by a thread in the middle of a fork."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or threading.current_thread() is threading.main_thread():
            return found

        @wraps(found)
        def guarded(*args: Any, **options: Any) -> Any:
            with _at_work:
                return found(*args, **options)

        return guarded


def wrap_orchestrators(store: Any, dispatcher: Any) -> None:
    """Have both of every new orchestrator's parts wrapped."""
    runtime: Any = runtime_of(app)
    make = runtime.new_orchestrator

    def new_orchestrator() -> Any:
        orchestrator = make()
        orchestrator.store = store(orchestrator.store)
        orchestrator.dispatcher = dispatcher(orchestrator.dispatcher)
        return orchestrator

    runtime.new_orchestrator = new_orchestrator


wrap_orchestrators(Guarded, Guarded)
