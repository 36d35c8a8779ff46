"""The site's app, whose processes die where the test of a saga says: once each, and by SIGKILL.

Store and orchestrator, publishers and revokes are wrapped from outside. A place is an event, what
its save does, and when: ``StepSucceeded f1 before save`` is the save that sends the second step.
What a save does is the ref that it sends, the status in which it settles the saga, or ``nothing``.
What is published comes after a save of the same thread. A claim's place is its ref
(``f0 before claim``), and what a worker writes of itself is a place of the saga ``instances``.

The process's role is the prefix of each of its places.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from functools import lru_cache
from typing import Any

import redis
from celery import signals

from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.execution import SagaExecution, StepRef
from celery_saga.core.ports import HeartbeatReply
from tests.worker.apps import crashing_steps
from tests.worker.apps.wrapping import app, wrap_orchestrators

__all__ = ["app", "crashing_steps"]

#: Before each place of this process.
role = os.environ.get("SAGA_TEST_ROLE", "")

#: The name of the event of what is saved outside of an orchestrator's ``change``.
outside = "Started"

#: The roles of workers that sweep; all others leave it to these.
SWEEPING = ("", "sweeper ")

_now = threading.local()


@lru_cache
def _orders(pid: int) -> redis.Redis:
    return redis.Redis.from_url(os.environ["SAGA_TEST_JOURNAL"])


def die_if_due(saga_id: str, where: str) -> None:
    if _orders(os.getpid()).srem(f"die:{saga_id}", role + where):
        os.kill(os.getpid(), signal.SIGKILL)


def what(before: SagaExecution | None, after: SagaExecution) -> str:
    """What the save of ``after`` does, in a word."""
    if after.settled and (before is None or before.status is not after.status):
        return after.status.value
    ref = after.first_active
    return f"{ref.direction}{ref.path[0]}" if ref and _sends(before, after) else "nothing"


def _sends(before: SagaExecution | None, after: SagaExecution) -> bool:
    if before is None:
        return True
    try:
        path = after.active[0].path
        old, new = before.steps[path], after.steps[path]
    except NotLoaded:
        return True  # only what is sent is touched and was not read
    return new.epoch > old.epoch or new.republished > old.republished


class DyingStore:
    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, execution: SagaExecution, *args: Any, **options: Any) -> Any:
        return self._save(None, execution, self._store.create, execution, *args, **options)

    def save(self, before: Any, after: SagaExecution, *args: Any, **options: Any) -> Any:
        return self._save(before, after, self._store.save, before, after, *args, **options)

    def _save(self, before: Any, after: SagaExecution, *call: Any, **options: Any) -> Any:
        event = getattr(_now, "event", outside)
        _now.saga, _now.place = after.saga_id, f"{event} {what(before, after)}"
        return self._write(after.saga_id, _now.place, "save", *call, **options)

    def claim(self, saga_id: str, ref: StepRef, *args: Any, **options: Any) -> Any:
        where = f"{ref.direction}{ref.path[0]}"
        call = self._store.claim
        return self._write(saga_id, where, "claim", call, saga_id, ref, *args, **options)

    def delete(self, saga_id: str, *args: Any) -> Any:
        return self._write(saga_id, "", "delete", self._store.delete, saga_id, *args)

    def heartbeat(self, *args: Any) -> Any:
        reply: HeartbeatReply = self._write(
            "instances", "", "heartbeat", self._store.heartbeat, *args
        )
        if reply.sweeper and role not in SWEEPING:
            self._store.client.delete(self._store._key("sweeper"))
            return replace(reply, sweeper=False)
        return reply

    def register_app(self, *args: Any) -> Any:
        return self._write("instances", "", "register_app", self._store.register_app, *args)

    def deregister(self, *args: Any) -> None:
        self._write("instances", "", "deregister", self._store.deregister, *args)

    def _write(
        self, saga_id: str, where: str, verb: str, call: Any, *args: Any, **options: Any
    ) -> Any:
        where = f"{where} " if where else ""
        die_if_due(saga_id, f"{where}before {verb}")
        answer = call(*args, **options)
        if answer is not None or verb != "save":  # None: another process was quicker
            die_if_due(saga_id, f"{where}after {verb}")
        return answer


class DyingPublisher:
    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher
        self._push, publisher._outbox._push = publisher._outbox._push, self.push

    def __getattr__(self, name: str) -> Any:
        return getattr(self._publisher, name)

    def push(self, pushes: Any) -> None:
        """Over the broker's connection: a message, or what is pushed to try whether it works."""
        if any("celery_saga-probe" in key for _, key, _ in pushes):
            self._push(pushes)
            return
        die_if_due(_now.saga, f"{_now.place} before push")
        self._push(pushes)
        die_if_due(_now.saga, f"{_now.place} after push")


class DyingResults:
    def __init__(self, results: Any) -> None:
        self._results = results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._results, name)

    def publish(self, execution: SagaExecution) -> None:
        die_if_due(execution.saga_id, f"{execution.status} before publish")
        self._results.publish(execution)
        die_if_due(execution.saga_id, f"{execution.status} after publish")


def named(handle: Any) -> Any:
    """``change`` of an orchestrator, during which the event is known."""

    def call(saga_id: str, event: Any, *args: Any, **options: Any) -> Any:
        before, _now.event = getattr(_now, "event", outside), type(event).__name__
        try:
            return handle(saga_id, event, *args, **options)
        finally:
            _now.event = before

    return call


@signals.task_postrun.connect
def before_the_ack(task_id: str = "", **kwargs: Any) -> None:
    found = StepRef.parse(task_id)
    if found is not None and getattr(_now, "saga", "") == found[0]:
        die_if_due(found[0], f"{_now.place} before the ack")


def revoke(task_id: str, *args: Any, **options: Any) -> Any:
    saga_id = task_id.partition("~")[0]
    die_if_due(saga_id, "before revoke")
    _revoke(task_id, *args, **options)
    die_if_due(saga_id, "after revoke")


_revoke, app.control.revoke = app.control.revoke, revoke

wrap_orchestrators(DyingStore, DyingPublisher, DyingResults, named)
