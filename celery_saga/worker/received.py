"""The tasks that a worker has: those that run, and those that it has received and not started.

Its main process knows them, independent of the processes of its pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar
from weakref import WeakSet

from celery.worker import state
from kombu.utils.limits import TokenBucket

from celery_saga.core.execution import StepRef
from celery_saga.core.ports import Reserved

T = TypeVar("T")


def running() -> set[str]:
    """Return the ids of the tasks that the worker runs."""
    return {request.id for request in snapshot(state.active_requests)}


def all_tasks() -> set[str]:
    """Return the ids of all tasks that the worker has.

    Celery's index by id loses a running request when a duplicate of it is dropped, so the sets of
    requests are read too.
    """
    reserved = {request.id for request in snapshot(state.reserved_requests)}
    return running() | reserved | set(snapshot(state.requests))


def steps() -> frozenset[str]:
    """Return the task ids of all steps that the worker has."""
    return frozenset(filter(StepRef.parse, all_tasks()))


class ReservedMessages:
    """The messages of steps that a worker has received and not started.

    Args:
        worker: Celery's worker; it gets its consumer when it starts to consume.
    """

    def __init__(self, worker: Any) -> None:
        self._rates = RateLimited(worker)

    def __call__(self) -> frozenset[Reserved]:
        """Return all of them."""
        # The deferred ones first: a message that is started meanwhile must not be missed.
        deferred = self._rates.task_ids()
        active = running()
        waiting = steps() - active
        return frozenset(Reserved(each, each in deferred) for each in waiting | deferred)


class RateLimited:
    """The messages that a worker defers because of a rate limit.

    Celery's consumer keeps them in buckets, and counts them among its requests only when it passes
    them to a process. The buckets are an internal of Celery. If they change, nothing is found here,
    and the messages in them count as messages that no worker has.

    Args:
        worker: Celery's worker.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        # A new limit replaces the buckets of all tasks, and the timer then empties the old ones.
        # Buckets that it has dropped are dropped here too, with their messages.
        self._buckets: WeakSet[Any] = WeakSet()

    def task_ids(self) -> frozenset[str]:
        """Return the task ids of the steps in them."""
        buckets = getattr(getattr(self._worker, "consumer", None), "task_buckets", None)
        if isinstance(buckets, dict):
            for bucket in snapshot(buckets.values()):
                if isinstance(bucket, TokenBucket):
                    self._buckets.add(bucket)
        ids = (
            getattr(item[0], "id", None)
            for bucket in snapshot(self._buckets)
            for item in snapshot(bucket.contents)
            if isinstance(item, tuple) and item
        )
        return frozenset(task_id for task_id in ids if task_id and StepRef.parse(task_id))


def snapshot(changing: Iterable[T]) -> list[T]:
    """Copy a collection that the consumer's thread changes meanwhile."""
    while True:
        try:
            return list(changing)
        except RuntimeError:  # it changed size while it was copied
            continue
