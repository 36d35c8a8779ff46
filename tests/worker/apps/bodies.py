"""Bodies of steps and compensations, which end in every way that Celery knows.

Of the first part ``ways`` in the context says what a body does: it maps ``step/direction`` to the
name of a way; without one it returns. Those of the second part do one thing each.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task, chain, chord, current_task, group, shared_task
from celery.exceptions import Ignore, Reject

from celery_saga import AbortSaga, SagaContext, SagaManager, saga_info, saga_step
from celery_saga.core.execution import StepRef
from tests.odd_errors import ODD
from tests.worker.apps.journal import bodies_of, is_first_body, note, remember, wait_at

#: Seconds that a body takes which is longer than the limits in these tests.
LONG = 2.5


def _declines(task: Any) -> None:
    raise ValueError("declined")


def _retries(task: Any) -> Any:
    if task.request.retries == 0:
        raise task.retry(countdown=0.1)
    return None


def _retries_without_success(task: Any) -> None:
    raise task.retry(exc=ConnectionError("not now"), countdown=0, max_retries=1)


def _declines_at_first(task: Any) -> None:
    """In the engine's first attempt; it has no other before the body begins."""
    found = StepRef.parse(task.request.id)
    assert found is not None
    if found[1].epoch == (1 if found[1].direction.value == "f" else 2):
        raise ValueError("not yet")


def _exits(task: Any) -> None:
    if is_first_body():
        raise SystemExit(3)


def _is_cancelled(task: Any) -> None:
    if is_first_body():
        raise asyncio.CancelledError


def _dies(task: Any) -> None:
    if is_first_body():
        os._exit(3)


def _dies_then_declines(task: Any) -> None:
    if is_first_body():
        os._exit(3)
    raise ValueError("it is there already")


def _kills_its_process(task: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kills_its_worker(task: Any) -> None:
    """As when a container runs out of memory: the main process and its whole pool."""
    os.killpg(0, signal.SIGKILL)


def _out_of_memory(task: Any) -> None:
    raise MemoryError


def _unusable(task: Any) -> Any:
    return {"handle": object()}


def _ignores(task: Any) -> None:
    raise Ignore("ignored")


def _rejects(task: Any) -> None:
    raise Reject("rejected", requeue=False)


def _requeues(task: Any) -> None:
    if is_first_body():
        raise Reject("not here", requeue=True)


def _replaces(task: Any) -> None:
    task.replace(leaf.s("replaced"))


def _long(task: Any, seconds: float = LONG) -> None:
    stop_at = time.monotonic() + seconds
    while time.monotonic() < stop_at:
        time.sleep(0.02)


def _endless(task: Any) -> None:
    _long(task, 100 * LONG)


def _endless_then_declines(task: Any) -> None:
    if is_first_body():
        _endless(task)
    raise ValueError("it is there already")


def _held(task: Any) -> None:
    info = saga_info()
    assert info is not None
    wait_at(f"{info.step}/{info.direction}")


def _held_once(task: Any) -> None:
    if is_first_body():
        _held(task)


def _launches(task: Any) -> dict[str, Any]:
    """Everything that a body may send; each leaf says what it is part of."""
    info = saga_info()
    assert info is not None
    queue = f"leaves-{info.direction}"

    def part(what: str) -> Any:
        return leaf.si(what).set(queue=queue)

    part("alone").delay()
    group(part("group 1"), part("group 2")).delay()
    chain(part("first"), part("second")).delay()
    chord([part("header 1"), part("header 2")], part("body")).delay()
    return {"me": task.request.id}


WAYS: dict[str, Callable[[Any], Any]] = {
    name.strip("_").replace("_", " "): way
    for name, way in list(globals().items())
    if name.startswith("_") and not name.startswith("__") and callable(way)
}


def _play(task: Any, ways: dict[str, str] | None) -> Any:
    info = saga_info()
    assert info is not None
    note("began")
    way = (ways or {}).get(f"{info.step}/{info.direction}")
    result = WAYS[way](task) if way else None
    note("ended")
    return result


@shared_task(bind=True)
def early(self, ways=None):
    return _play(self, ways)


@shared_task(bind=True, acks_late=True)
def late(self, ways=None):
    return _play(self, ways)


@shared_task(bind=True, acks_late=True, reject_on_worker_lost=True)
def requeued(self, ways=None):
    return _play(self, ways)


class Stillborn(Task):
    """Kills its process when Celery has taken the message and the body is still to begin."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@shared_task(bind=True, base=Stillborn)
def stillborn(self, ways=None):
    return _play(self, ways)


def _before(task: Any, kwargs: Any) -> None:
    """What happens before the body begins: ``before a/f`` in the context."""
    found = StepRef.parse(task.request.id)
    if found is not None:
        way = (kwargs.get("ways") or {}).get(f"before a/{found[1].direction}")
        if way:
            WAYS[way](task)


class Prepared(Task):
    """Opens something before each body, as for a tenant's database."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        _before(self, kwargs)


@shared_task(bind=True, base=Prepared)
def prepared(self, ways=None):
    return _play(self, ways)


@shared_task(bind=True, base=Prepared, acks_late=True)
def late_prepared(self, ways=None):
    return _play(self, ways)


@shared_task(
    bind=True,
    base=Prepared,
    autoretry_for=(Exception,),
    retry_kwargs={"max_retries": 1, "countdown": 0},
)
def retried_prepared(self, ways=None):
    return _play(self, ways)


def guarded(call: Any) -> Any:
    """An annotation for ``@__call__``: what it raises is raised outside of our wrapper."""

    def guard(task: Any, *args: Any, **kwargs: Any) -> Any:
        _before(task, kwargs)
        return call(task, *args, **kwargs)

    return guard


@shared_task(bind=True)
def annotated(self, ways=None):
    return _play(self, ways)


@shared_task(bind=True, retry_on_worker_lost=True, default_retry_delay=1)
def early_resent(self, ways=None):
    return _play(self, ways)


@shared_task(bind=True, acks_late=True, retry_on_worker_lost=True, default_retry_delay=1)
def late_resent(self, ways=None):
    return _play(self, ways)


@shared_task(bind=True, autoretry_for=(Exception,), retry_kwargs={"max_retries": 1, "countdown": 0})
def retried(self, ways=None):
    return _play(self, ways)


@shared_task(bind=True, acks_late=True)
def compensation(self, ways=None):
    return _play(self, ways)


@shared_task(bind=True)
def early_compensation(self, ways=None):
    return _play(self, ways)


@shared_task(bind=True)
def leaf(self, what):
    request = self.request
    saga_id, _, _ = request.root_id.partition("~")
    remember(saga_id, "leaf", leaf=what, parent=request.parent_id, known=saga_info().saga_id)
    return what


class Unsure(Exception):
    """It may have happened."""


class VeryUnsure(Unsure):
    pass


RAISES: dict[str, Exception] = {
    "declined": LookupError("declined"),
    "unsure": Unsure("unsure"),
    "very unsure": VeryUnsure("very unsure"),
    "memory": MemoryError("no more"),
    "soft limit": SoftTimeLimitExceeded(),
    "abort": AbortSaga("no way"),
    "ignore": Ignore("ignored"),
    "reject": Reject("rejected", requeue=False),
    "requeue": Reject("later", requeue=True),
}


def times() -> int:
    """How many bodies of this step have begun, this one among them; in both directions."""
    info = saga_info()
    assert info is not None
    return bodies_of(info.step)


@shared_task
def do(value=None):
    note("began")
    return value


@shared_task(acks_late=True)
def counted(total=0):
    note("began")
    return {"total": total + 1}


@shared_task
async def waited(value=None):
    note("began")
    await asyncio.sleep(0)
    return {"waited": value}


@shared_task(acks_late=True)
def fails(how, failures=1):
    """Ends in the given way for the first ``failures`` times."""
    note("began")
    if times() <= failures:
        raise RAISES[how]


@shared_task(autoretry_for=(LookupError,), retry_kwargs={"countdown": 0, "max_retries": 2})
def autoretried(how, failures):
    note("began")
    if times() <= failures:
        raise RAISES[how]


@shared_task(bind=True, max_retries=2)
def self_retried(self, failures):
    note("began")
    if times() <= failures:
        raise self.retry(countdown=0.05, exc=LookupError("declined"))
    return self.request.retries


@shared_task
def unusable():
    note("began")
    return {"handle": object()}


@shared_task(soft_time_limit=1)
def over_its_soft_limit():
    note("began")
    time.sleep(30)


@shared_task(time_limit=1)
def over_its_hard_limit():
    note("began")
    time.sleep(30)


class Colour(str, Enum):
    RED = "red"


@shared_task
def makes_shapes():
    note("began")
    return OrderedDict(pair=(1, 2), colour=Colour.RED, at={1: (datetime(2026, 11, 1),)})


@shared_task
def makes_a_pair():
    note("began")
    return 1, (2,)


@shared_task
def compensation_shapes(pair, colour):
    note("began", pair=pair, colour=colour)


@shared_task(ignore_result=True)
def made_of_things():
    note("began")
    return {"value": "left out", "thing": object()}


@shared_task
def raises_oddly(what):
    note("began")
    raise ODD[what][0]()


@shared_task
def needs(something):
    note("began")


@shared_task
def compensation_with(receipt=None, other="default"):
    note("began", receipt=receipt, other=other)
    return {"value": "what a compensation returns does not count"}


@shared_task
def compensation_late():
    """Succeeds at its third attempt."""
    note("began")
    if saga_info().attempt < 3:
        raise ConnectionError("try again")


@shared_task
def compensation_never():
    note("began")
    raise PermissionError("the shop is closed")


@shared_task(autoretry_for=(ConnectionError,), retry_kwargs={"countdown": 0, "max_retries": 2})
def compensation_autoretried():
    """Succeeds at the second of its retries by Celery."""
    note("began")
    if saga_info().attempt < 3:
        raise ConnectionError("try again")


@shared_task(acks_late=True)
def compensation_as(compensation_how):
    """Ends in the given way for the first time."""
    note("began")
    if times() == 2:  # after the step's own body
        raise RAISES[compensation_how]


@shared_task(bind=True, max_retries=2)
def compensation_retried(self):
    note("began")
    if self.request.retries < 2:
        raise self.retry(countdown=0.05, exc=LookupError("declined"))


@shared_task
def compensation_unusable():
    note("began")
    return {"handle": object()}


@shared_task(bind=True)
def replaces(self):
    note("began")
    raise self.replace(do.s())


@shared_task
def compensation_needs(receipt):
    note("began", receipt=receipt)


@shared_task
def takes_long():
    """Until the deadline is over."""
    note("began")
    execution = SagaManager(current_task.app).get(saga_info().saga_id).execution
    while time.time() < execution.deadline + 0.1:
        time.sleep(0.05)


@shared_task
def cancels():
    note("began")
    SagaManager(current_task.app).get(saga_info().saga_id).cancel("by its own step")


@saga_step
def in_place(context: SagaContext) -> None:
    note("began")
    context.seen = sorted(context)


@saga_step
def new_context(context: SagaContext) -> SagaContext:
    note("began")
    return SagaContext(kept=context.get("kept"), new=True)


@saga_step
def bad_context(context: SagaContext) -> Any:
    note("began")
    return 42


@saga_step
def unusable_context(context: SagaContext) -> None:
    note("began")
    context.handle = {1, object()}


@saga_step
def compensation_in_context(context: SagaContext) -> None:
    note("began", seen=dict(context))
