"""Tasks that end in every way that Celery knows; the context says which way a step takes.

``ways`` in the context maps ``step/direction`` to the name of a way; without one a body returns.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from celery import Task, chain, chord, group, shared_task
from celery.exceptions import Ignore, Reject

from celery_saga import saga_info
from celery_saga.core.execution import StepRef
from tests.worker.apps.journal import is_first_body, note, remember, wait_at

#: Seconds that a body takes which is longer than the limits in these tests.
LONG = 2.5


def _declines(task: Any) -> None:
    raise ValueError("declined")


def _retries(task: Any) -> Any:
    if task.request.retries == 0:
        raise task.retry(countdown=0.1)
    return None


def _retries_in_vain(task: Any) -> None:
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
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
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
    """Everything that a body may send; each leaf tells what it is part of."""
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
def undo(self, ways=None):
    return _play(self, ways)


@shared_task(bind=True)
def early_undo(self, ways=None):
    return _play(self, ways)


@shared_task(bind=True)
def leaf(self, what):
    request = self.request
    saga_id, _, _ = request.root_id.partition("~")
    remember(saga_id, "leaf", leaf=what, parent=request.parent_id, known=saga_info().saga_id)
    return what
