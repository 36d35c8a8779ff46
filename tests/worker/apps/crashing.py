"""The site's app, whose processes die where the test of a saga says: once, and by SIGKILL.

Store and dispatcher are wrapped from outside. A place is the state that is about to be written, and
when: ``f1 before save`` is the save that sends the second step. What is published comes after the
save of the same thread.
"""

from __future__ import annotations

import os
import signal
import threading
from functools import lru_cache
from typing import Any

import redis
from celery import signals

from celery_saga.execution import SagaExecution, Slot
from tests.worker.apps.wrapping import app, wrap_orchestrators

__all__ = ["app"]

#: Before each place of a process that is no worker.
role = ""

_now = threading.local()


@lru_cache
def _orders(pid: int) -> redis.Redis:
    return redis.Redis.from_url(os.environ["SAGA_TEST_JOURNAL"])


def place(execution: SagaExecution) -> str:
    """The slot that is sent, or the status in which the saga is settled."""
    if execution.settled:
        return execution.status.value
    slot = execution.slot(execution.position)
    return f"{slot.direction.value}{slot.step}" if slot else "nothing"


def die_if_told(saga_id: str, where: str) -> None:
    key = f"die:{saga_id}"
    found: Any = _orders(os.getpid()).get(key)
    if found and found.decode() == role + where and _orders(os.getpid()).delete(key):
        os.kill(os.getpid(), signal.SIGKILL)


class DyingStore:
    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, execution: SagaExecution, *args: Any, **options: Any) -> Any:
        return self._write(execution, self._store.create, execution, *args, **options)

    def save(self, before: Any, after: SagaExecution, *args: Any, **options: Any) -> Any:
        return self._write(after, self._store.save, before, after, *args, **options)

    def _write(self, written: SagaExecution, write: Any, *args: Any, **options: Any) -> Any:
        _now.saga, _now.place = written.saga_id, place(written)
        die_if_told(_now.saga, f"{_now.place} before save")
        answer = write(*args, **options)
        if answer is not None:  # somebody else was quicker
            die_if_told(_now.saga, f"{_now.place} after save")
        return answer


class DyingDispatcher:
    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)

    def publish(self, *args: Any, **options: Any) -> Any:
        _now.publishing = True
        try:
            answer = self._dispatcher.publish(*args, **options)
        finally:
            _now.publishing = False
        die_if_told(_now.saga, f"{_now.place} after publish")
        return answer


@signals.before_task_publish.connect
def before_its_push(**kwargs: Any) -> None:
    if getattr(_now, "publishing", False):
        die_if_told(_now.saga, f"{_now.place} before its push")


@signals.after_task_publish.connect
def after_its_push(**kwargs: Any) -> None:
    """The message is sent, and the event that tells so is not."""
    if getattr(_now, "publishing", False):
        die_if_told(_now.saga, f"{_now.place} after its push")


@signals.task_postrun.connect
def before_the_ack(task_id: str = "", **kwargs: Any) -> None:
    found = Slot.parse(task_id)
    if found is not None and getattr(_now, "saga", "") == found[0]:
        die_if_told(found[0], f"{_now.place} before the ack")


wrap_orchestrators(DyingStore, DyingDispatcher)
