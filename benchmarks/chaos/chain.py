"""What sagas are compared with: a chain of the same tasks, as it is written by hand.

Each link has an errback that undoes the links before it, in reverse order, by a chain of undos that
are retried; its last task tells that all is undone. The broker's visibility timeout is short, so
that messages which a dead worker had come again in time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from celery import Celery, Task, chain, shared_task

from benchmarks.chaos.app import (
    BROKER,
    STORE,
    TASKS,
    Flaky,
    Me,
    Work,
    act,
    effect,
    make_app,
    stumble,
)
from benchmarks.chaos.engines import with_result
from benchmarks.chaos.judge import RESULTS, Told
from benchmarks.chaos.ledger import COMPENSATION, FORWARD, acting, who
from benchmarks.chaos.orders import Order

#: Seconds after which a Redis broker delivers again what nobody has acknowledged; and how often it
#: looks for that.
VISIBILITY = {
    "visibility_timeout": 10,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}


@shared_task(
    bind=True,
    acks_late=True,
    throws=(Flaky,),
    autoretry_for=(Exception,),
    max_retries=5,
    default_retry_delay=0.5,
)
def undo_link(self: Task[Any, Any], work: Work, stumbles: bool, me: Me) -> None:
    """Undoes a link; what is not there is no error."""
    with acting(me):
        if stumbles and not self.request.retries:
            stumble()
        act({"pauses": work[who().step]["pauses"]}, effect)


@shared_task(acks_late=True)
def undone() -> None:
    """The last task of an undo: its result says that all of it ran."""


@shared_task(acks_late=True)
def roll_back(saga_id: str, failed: int, work: Work, stumbles: bool) -> None:
    """The errback of a link: undoes those before it."""
    undos = [
        undo_link.si(work, stumbles, [saga_id, step, COMPENSATION])
        for step in reversed(range(failed))
    ]
    chain(*undos, undone.si().set(task_id=f"{saga_id}-undone")).apply_async()


class Chains:
    """Plain Celery.

    Args:
        broker: URL of the broker.
        store: URL of the result backend.
    """

    app = "benchmarks.chaos.chain"
    timeout = 60.0

    def __init__(self, broker: str, store: str) -> None:
        self._app = _make_app(broker, store)
        self._app.set_current()  # the one that shared tasks and canvases use
        self._last: dict[str, str] = {}

    def start(self, order: Order) -> None:
        saga_id, context = order.saga_id, order.context()
        links = []
        for step, kind in enumerate(order.kinds):
            link = TASKS[kind].si(context["work"], [saga_id, step, FORWARD])
            link.set(task_id=f"{saga_id}-{step}", link_error=roll_back.si(saga_id, step, **context))
            links.append(link)
        self._last[saga_id] = f"{saga_id}-{len(links) - 1}"
        chain(*links).apply_async()

    def cancel(self, saga_id: str) -> bool:
        """A chain has no such thing."""
        return False

    def ended(self, saga_ids: Iterable[str]) -> set[str]:
        wanted = list(saga_ids)
        last = with_result(self._app.backend, [self._last[saga_id] for saga_id in wanted])
        back = with_result(self._app.backend, [f"{saga_id}-undone" for saga_id in wanted])
        return {
            saga_id
            for saga_id in wanted
            if f"{saga_id}-undone" in back
            or (self._last[saga_id] in last and self.told(saga_id).status == "COMPLETED")
        }

    def told(self, saga_id: str) -> Told:
        """What its author would say of it: done if the last link is, undone if all undos are."""
        states = {
            "COMPLETED": self._app.AsyncResult(self._last[saga_id]).state,
            "COMPENSATED": self._app.AsyncResult(f"{saga_id}-undone").state,
        }
        for status, state in states.items():
            if state == "SUCCESS":
                return Told(status, RESULTS[status])
        return Told("FAILED" if states["COMPLETED"] == "FAILURE" else "PENDING")

    def close(self) -> None:
        self._app.close()


def _make_app(broker: str, store: str) -> Celery:
    found = make_app(broker, store, plugin=False)
    found.conf.broker_transport_options = VISIBILITY
    return found


if BROKER in os.environ:
    app = _make_app(os.environ[BROKER], os.environ[STORE])
