"""The tasks, and how an app is made.

Each body writes in the ledger that it began, that its effect exists, and that it ended; between
these it waits, so that a fault meets it before, after and between. The same tasks are
steps of sagas, and links of the chains that sagas are compared with: these have in ``me`` what a
step has from ``saga_info()``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import Celery, Task, shared_task

from benchmarks.chaos.ledger import acting, effect_once, note, who
from benchmarks.chaos.shapes import step_name, step_number
from celery_saga import AbortSaga, SagaManager, saga_info

#: Environment variables with the URLs of the broker and of the store, which is the result backend.
BROKER, STORE = "SAGA_CHAOS_BROKER", "SAGA_CHAOS_STORE"
#: And with ``saga_heartbeat`` and ``saga_heartbeat_ttl``, where they are not the default.
HEARTBEAT = "SAGA_CHAOS_HEARTBEAT"

Work = Mapping[str, Mapping[str, Any]]
#: Saga, index of the step and direction.
Me = Sequence[Any] | None


class Declined(Exception):
    """A participant refuses, and has left nothing behind."""


class Flaky(Exception):
    """An error that does not come again in the next attempt."""


def mine(work: Work) -> Mapping[str, Any]:
    """What the running step is to do."""
    return work[step_name(step_number(who().step))]


def act(own: Mapping[str, Any], take_effect: Callable[[], Any]) -> None:
    """One body: what it writes in the ledger, and how long it takes."""
    before, after = own["pauses"]
    note("began")
    time.sleep(before)
    if own.get("fails"):
        note("failed")
        raise AbortSaga("as planned") if own["fails"] == "abort" else Declined("as planned")
    take_effect()
    time.sleep(after)
    note("ended")


def effect() -> None:
    """As often as it is called."""
    note("effect")


def effect_or_decline() -> None:
    """Once for each key."""
    if not effect_once():
        raise Declined("this was done before")


def stumble() -> None:
    """A body that fails and is to be tried again."""
    note("began")
    note("retried")
    raise Flaky("comes again")


@shared_task(acks_late=True, throws=(Declined,))
def late(work: Work, me: Me = None) -> None:
    """Takes effect each time that it is run."""
    with acting(me):
        act(mine(work), effect)


@shared_task(throws=(Declined,))
def early(work: Work, me: Me = None) -> None:
    """The same, acknowledged before it runs: at most once."""
    with acting(me):
        act(mine(work), effect)


@shared_task(acks_late=True, reject_on_worker_lost=True, throws=(Declined,))
def requeued(work: Work, me: Me = None) -> None:
    """The same, returned to the broker when its process dies."""
    with acting(me):
        act(mine(work), effect)


@shared_task(acks_late=True, throws=(Declined,))
def declining(work: Work, me: Me = None) -> None:
    """Keeps records of its own by the idempotency key, and declines what it already did."""
    with acting(me):
        act(mine(work), effect_or_decline)


@shared_task(
    bind=True,
    acks_late=True,
    throws=(Declined,),
    autoretry_for=(Flaky,),
    default_retry_delay=0.1,
)
def retried(self: Task[Any, Any], work: Work, me: Me = None) -> None:
    """Needs one of Celery's own retries."""
    with acting(me):
        if not self.request.retries:
            stumble()
        act(mine(work), effect)


@shared_task(acks_late=True, throws=(Flaky,))
def compensate(work: Work, stumbles: bool) -> None:
    """Compensate a step of a saga; a missing effect is not an error."""
    info = saga_info()
    assert info is not None
    if stumbles and info.attempt == 1:
        stumble()
    act({"pauses": mine(work)["pauses"]}, effect)


@shared_task(acks_late=True)
def takes_first(work: Work) -> bool:
    """The condition of a choice: whether the first alternative is taken."""
    chosen = work["choice"]
    time.sleep(chosen["pause"])
    return bool(chosen["first"])


TASKS: dict[str, Task[Any, Any]] = {
    "late": late,
    "early": early,
    "requeued": requeued,
    "declining": declining,
    "retried": retried,
}


def make_app(broker: str, store: str, plugin: bool = True) -> Celery:
    """An app at default settings.

    Args:
        broker: URL of the broker.
        store: URL of the result backend, which is the store as well.
        plugin: whether it runs sagas.
    """
    found = Celery("chaos", broker=broker, backend=store)
    if plugin:
        SagaManager(found)
    found.conf.broker_connection_retry_on_startup = True
    return found
