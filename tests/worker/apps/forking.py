"""The site's app, whose heartbeat holds a lock of Celery's until a process is forked.

It does so on request. It is the lock under which events of sent tasks are published: the
heartbeat holds it for a moment with each step that it sends again, and the worker's main thread
never.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

import redis

from celery_saga.runtime import runtime_of
from tests.helpers import wait_for
from tests.worker.apps.site import app

__all__ = ["app"]

_journal = redis.Redis.from_url(os.environ["SAGA_TEST_JOURNAL"])
_forking, _forked = threading.Event(), threading.Event()
os.register_at_fork(before=_forking.set, after_in_parent=_forked.set)

runtime: Any = runtime_of(app)
_make = runtime.new_orchestrator


def new_orchestrator(*args: Any) -> Any:
    orchestrator = _make(*args)
    heartbeat = orchestrator.store.heartbeat

    def held(*args: Any) -> Any:
        if _journal.delete("forking:hold"):
            with app.amqp._event_dispatcher.mutex, contextlib.suppress(AssertionError):
                _forking.clear()
                _forked.clear()
                _journal.set("forking:holds", 1)
                wait_for(_forking.is_set, 10)  # Celery looks after its processes every five seconds
                wait_for(_forked.is_set, 0.5)
        return heartbeat(*args)

    orchestrator.store.heartbeat = held
    return orchestrator


runtime.new_orchestrator = new_orchestrator
