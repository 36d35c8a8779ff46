"""The tasks of the sagas, and the app that worker processes load.

Each body writes in the ledger that it began, that its effect is there, and that it ended; between
these it takes its time, so that a fault finds it before, after and between.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from celery import Celery, Task, shared_task

from benchmarks.chaos.ledger import effect_once, note, step_name
from benchmarks.chaos.orders import Order
from celery_saga import AbortSaga, Saga, SagaManager, saga_info

#: Environment variables with the URLs of the broker and of the store, which is the result backend.
BROKER, STORE = "SAGA_CHAOS_BROKER", "SAGA_CHAOS_STORE"
#: And with ``saga_heartbeat`` and ``saga_heartbeat_ttl``, where they are not the default.
HEARTBEAT = "SAGA_CHAOS_HEARTBEAT"

Work = Mapping[str, Mapping[str, Any]]


class Declined(Exception):
    """A participant says no, and has left nothing behind."""


class Flaky(Exception):
    """Something that goes away when it is tried again."""


def _act(work: Work, effect: Callable[[], Any]) -> None:
    info = saga_info()
    assert info is not None
    mine = work[info.step]
    before, after = mine["pauses"]
    note("began")
    time.sleep(before)
    if mine.get("fails"):
        note("failed")
        raise AbortSaga("as told") if mine["fails"] == "abort" else Declined("as told")
    effect()
    time.sleep(after)
    note("ended")


def _effect() -> None:
    note("effect")


def _effect_or_decline() -> None:
    if not effect_once():
        raise Declined("this was done before")


@shared_task(acks_late=True, throws=(Declined,))
def late(work: Work) -> None:
    """Takes effect each time that it is run."""
    _act(work, _effect)


@shared_task(throws=(Declined,))
def early(work: Work) -> None:
    """The same, acknowledged before it runs: at most once."""
    _act(work, _effect)


@shared_task(acks_late=True, reject_on_worker_lost=True, throws=(Declined,))
def requeued(work: Work) -> None:
    """The same, given back to the broker when its process dies."""
    _act(work, _effect)


@shared_task(acks_late=True, throws=(Declined,))
def declining(work: Work) -> None:
    """Keeps its own books by the idempotency key, and declines what it already did."""
    _act(work, _effect_or_decline)


@shared_task(
    bind=True,
    acks_late=True,
    throws=(Declined,),
    autoretry_for=(Flaky,),
    default_retry_delay=0.1,
)
def retried(self: Task[Any, Any], work: Work) -> None:
    """Needs one of Celery's own retries."""
    if not self.request.retries:
        note("began")
        note("retried")
        raise Flaky("comes again")
    _act(work, _effect)


@shared_task(acks_late=True, throws=(Flaky,))
def undo(work: Work, stumbles: bool) -> None:
    """Undoes a step; what is not there is no error."""
    info = saga_info()
    assert info is not None
    if stumbles and info.attempt == 1:
        note("began")
        note("retried")
        raise Flaky("comes again")
    _act({info.step: {"pauses": work[info.step]["pauses"]}}, _effect)


TASKS: dict[str, Task[Any, Any]] = {
    "late": late,
    "early": early,
    "requeued": requeued,
    "declining": declining,
    "retried": retried,
}


def make_app(broker: str, store: str) -> Celery:
    """An app of the plugin at its default settings.

    Args:
        broker: URL of the broker.
        store: URL of the result backend, which is the store as well.
    """
    found = Celery("chaos", broker=broker, backend=store)
    SagaManager(found)
    found.conf.broker_connection_retry_on_startup = True
    return found


class Sagas:
    """The sagas that orders ask for, each built once.

    Args:
        app: on which they run.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._built = lru_cache(maxsize=None)(self._build)

    def of(self, order: Order) -> Saga:
        """The saga with the steps of an order."""
        return self._built(order.kinds, order.pivot)

    def _build(self, kinds: tuple[str, ...], pivot: bool) -> Saga:
        saga = Saga("-".join(kinds), app=self._app)
        for index, kind in enumerate(kinds):
            is_pivot = pivot and index == len(kinds) - 1
            step = saga.local_step(TASKS[kind], name=step_name(index), pivot=is_pivot)
            if not is_pivot:
                step.on_failure(undo)
        return saga.commit()


if BROKER in os.environ:
    app = make_app(os.environ[BROKER], os.environ[STORE])
    if HEARTBEAT in os.environ:
        every, ttl = map(float, os.environ[HEARTBEAT].split())
        app.conf.update(saga_heartbeat=every, saga_heartbeat_ttl=ttl)
