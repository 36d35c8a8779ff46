"""The tasks that a worker has: those that it runs, and those that it has received.

Its main process knows them, whatever the processes of its pool do.
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
    """Ids of the tasks that the worker runs."""
    return {request.id for request in snapshot(state.active_requests)}


def all_tasks() -> set[str]:
    """Ids of all tasks that the worker has.

    Celery's index by id forgets a running request when a duplicate of it is dropped: the sets of
    requests are asked as well.
    """
    reserved = {request.id for request in snapshot(state.reserved_requests)}
    return running() | reserved | set(snapshot(state.requests))


def steps() -> frozenset[str]:
    """Task ids of all steps that the worker has."""
    return frozenset(filter(StepRef.parse, all_tasks()))


class ReservedMessages:
    """The messages of steps that a worker has received and not started.

    Args:
        worker: Celery's; it has its consumer once it consumes.
    """

    def __init__(self, worker: Any) -> None:
        self._rates = RateLimited(worker)

    def __call__(self) -> frozenset[Reserved]:
        """All of them, as they are now."""
        # The deferred ones first: what is let through meanwhile must not be left out.
        deferred = self._rates.task_ids()
        active = running()
        waiting = steps() - active
        return frozenset(Reserved(each, each in deferred) for each in waiting | deferred)


class RateLimited:
    """The messages that a worker keeps until a rate limit lets them through.

    Celery's consumer has them in buckets, and counts them among its requests only when it gives
    them to a process. The buckets are internals of it: if they are others one day, nothing is told,
    and what is in them counts as messages that no worker has.

    Args:
        worker: Celery's.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        # A new limit comes with new buckets for all tasks, and the timer then empties the old ones.
        # Those that it has dropped, with what is in them, are gone from here as well.
        self._buckets: WeakSet[Any] = WeakSet()

    def task_ids(self) -> frozenset[str]:
        """Task ids of the steps in them."""
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
    """A copy of a collection that the consumer's thread changes meanwhile."""
    while True:
        try:
            return list(changing)
        except RuntimeError:  # it changed size while it was copied
            continue
