"""What runs the orders: sagas."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Protocol

import redis
from celery.states import READY_STATES
from kombu.exceptions import OperationalError

from benchmarks.chaos.app import TASKS, compensate, make_app, takes_first
from benchmarks.chaos.orders import Order
from benchmarks.chaos.shapes import LOOPS, step_name
from benchmarks.chaos.verdict import Reported
from celery_saga import LocalSagaStep, NestedSagaStep, Saga, SagaManager
from celery_saga.errors import (
    SagaExecutionNotFoundException,
    SagaPastPivot,
    StoreUnavailable,
)

#: What a client may meet while servers are unavailable.
UNAVAILABLE = (StoreUnavailable, OperationalError, redis.RedisError, OSError)


class Engine(Protocol):
    """How a client starts orders and reads their ends. All may raise what is in UNAVAILABLE."""

    #: The module of the workers' app.
    app: str
    #: Seconds that an order has to settle.
    timeout: float

    def start(self, order: Order) -> None:
        """Start it; once more with the same id is the same."""
        ...

    def cancel(self, saga_id: str) -> bool:
        """Cancel it; whether that changed its end."""
        ...

    def ended(self, saga_ids: Iterable[str]) -> set[str]:
        """Those that have a result, which need not be their last."""
        ...

    def reported(self, saga_id: str) -> Reported:
        """What the engine reports about it."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


class Sagas:
    """The library.

    Args:
        broker: URL of the broker.
        store: URL of the store and result backend.
    """

    app = "benchmarks.chaos.worker"
    timeout = 180.0

    def __init__(self, broker: str, store: str) -> None:
        self._app = make_app(broker, store)
        self._manager = SagaManager(self._app)
        self._built = lru_cache(maxsize=None)(self._build)
        self._cancelled: set[str] = set()

    def _build(self, kinds: tuple[str, ...], pivot: bool, shape: str) -> Saga:
        if shape == "tree":
            return self._build_tree(kinds, pivot)
        saga = Saga("-".join(kinds), app=self._app)
        for index, kind in enumerate(kinds):
            is_pivot = pivot and index == len(kinds) - 1
            step = saga.local_step(TASKS[kind], name=step_name(index), pivot=is_pivot)
            if not is_pivot:
                step.on_failure(compensate)
        return saga.commit()

    def _build_tree(self, kinds: tuple[str, ...], pivot: bool) -> Saga:
        """The steps of :data:`benchmarks.chaos.shapes.TREE`."""

        def step(number: int) -> LocalSagaStep:
            return LocalSagaStep(TASKS[kinds[number]], compensate, name=step_name(number))

        name = "-".join(kinds) + ("-pivot" if pivot else "")
        nested = Saga(f"{name}-nested", app=self._app, steps=[step(2), step(3)]).commit()
        saga = Saga(name, app=self._app)
        saga.parallel_step(step(0), step(1), NestedSagaStep(nested, name="nested"))
        one_by_one, at_once = LOOPS
        saga.for_each("lines", step(one_by_one), name="one-by-one")
        saga.for_each("lines", step(at_once), name="at-once", parallel=True, compensate="parallel")
        choice = saga.conditional_step(name="choice")
        choice.if_then(takes_first, step(10)).else_then(step(11))
        last = saga.local_step(TASKS[kinds[12]], name=step_name(12), pivot=pivot)
        if not pivot:
            last.on_failure(compensate)
        return saga.commit()

    def start(self, order: Order) -> None:
        saga = self._built(order.kinds, order.pivot, order.shape)
        saga.apply_async(order.context(), saga_id=order.saga_id)

    def cancel(self, saga_id: str) -> bool:
        try:
            took = self._manager.get(saga_id).cancel()
        except SagaPastPivot:
            return False
        if took:
            self._cancelled.add(saga_id)
        return took

    def ended(self, saga_ids: Iterable[str]) -> set[str]:
        return with_result(self._app.backend, saga_ids)

    def reported(self, saga_id: str) -> Reported:
        result = self._app.AsyncResult(saga_id).state
        try:
            execution = self._manager.get(saga_id).execution
        except SagaExecutionNotFoundException:
            return Reported("", result)
        error = str(execution.error or "")
        return Reported(execution.status.value, result, saga_id in self._cancelled, error)

    def close(self) -> None:
        self._app.close()


def with_result(backend: Any, task_ids: Iterable[str]) -> set[str]:
    """Those of the tasks that have ended, asked for in one request."""
    found = backend.get_many(list(task_ids), interval=0.01, max_iterations=1)
    return {task_id for task_id, result in found if result["status"] in READY_STATES}
