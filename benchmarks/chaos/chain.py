"""What sagas are compared with: a chain of the same tasks, as it is written by hand.

Each link has an errback that compensates the links before it, in reverse order, by a chain of
compensations that are retried; its last task shows that all ran. The broker's visibility timeout is
short, so that messages which a dead worker had come again in time.
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
    mine,
    stumble,
)
from benchmarks.chaos.engines import with_result
from benchmarks.chaos.ledger import COMPENSATION, FORWARD, acting
from benchmarks.chaos.orders import Order
from benchmarks.chaos.verdict import RESULTS, Reported

#: Seconds after which a Redis broker delivers again what was not acknowledged; and how often it
#: checks that.
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
def compensate_link(self: Task[Any, Any], work: Work, stumbles: bool, me: Me) -> None:
    """Compensate a link; a missing effect is not an error."""
    with acting(me):
        if stumbles and not self.request.retries:
            stumble()
        act({"pauses": mine(work)["pauses"]}, effect)


@shared_task(acks_late=True)
def compensated() -> None:
    """The last task of a rollback: its result shows that all of it ran."""


@shared_task(acks_late=True)
def roll_back(saga_id: str, failed: int, work: Work, stumbles: bool) -> None:
    """The errback of a link: compensates those before it."""
    compensations = [
        compensate_link.si(work, stumbles, [saga_id, step, COMPENSATION])
        for step in reversed(range(failed))
    ]
    chain(*compensations, compensated.si().set(task_id=f"{saga_id}-compensated")).apply_async()


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
        """A chain cannot be cancelled."""
        return False

    def ended(self, saga_ids: Iterable[str]) -> set[str]:
        wanted = list(saga_ids)
        last = with_result(self._app.backend, [self._last[saga_id] for saga_id in wanted])
        back = with_result(self._app.backend, [f"{saga_id}-compensated" for saga_id in wanted])
        return {
            saga_id
            for saga_id in wanted
            if f"{saga_id}-compensated" in back
            or (self._last[saga_id] in last and self.reported(saga_id).status == "COMPLETED")
        }

    def reported(self, saga_id: str) -> Reported:
        """Completed if the last link is, compensated if all compensations are."""
        states = {
            "COMPLETED": self._app.AsyncResult(self._last[saga_id]).state,
            "COMPENSATED": self._app.AsyncResult(f"{saga_id}-compensated").state,
        }
        for status, state in states.items():
            if state == "SUCCESS":
                return Reported(status, RESULTS[status])
        return Reported("FAILED" if states["COMPLETED"] == "FAILURE" else "PENDING")

    def close(self) -> None:
        self._app.close()


def _make_app(broker: str, store: str) -> Celery:
    found = make_app(broker, store, plugin=False)
    found.conf.broker_transport_options = VISIBILITY
    return found


if BROKER in os.environ:
    app = _make_app(os.environ[BROKER], os.environ[STORE])
