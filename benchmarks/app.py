"""The Celery app that is measured: the same tasks in every variant.

The order that a step takes and returns is the same in all variants, and so is the task object
that works on it. A chain hands the order from task to task as its argument; a saga keeps it in its
context, under one key.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import redis
from celery import Celery, chain, chord

from celery_saga import LocalSagaStep, Saga, SagaManager

#: Environment variables by which a worker process learns what it is: this and a field of Place.
PREFIX = "SAGA_BENCHMARK_"


@dataclass(frozen=True)
class Variant:
    """One way to run the same tasks.

    Args:
        name: as tables show it.
        text: what it is, in words.
        saga: run by celery_saga; otherwise a plain chain on an app without the plugin.
        results: whether each step's result is stored as a Celery result.
        apart: whether the checkpoints live on a server of their own, not the broker's.
    """

    name: str
    text: str
    saga: bool = False
    results: bool = False
    apart: bool = False


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("chain", "Celery's chain as it is by default: stores each result", results=True),
        Variant("chain-noresult", "the chain, ignore_result on all tasks but the last"),
        Variant("saga", "a saga; checkpoints on the broker's server", saga=True),
        Variant("saga-results", "the saga, saga_store_step_results on", saga=True, results=True),
        Variant(
            "saga-two-write", "the saga; checkpoints on a second server", saga=True, apart=True
        ),
    )
}


@dataclass(frozen=True)
class Place:
    """Where a variant runs; the URLs of one loopback server each.

    Args:
        variant: its name.
        broker: broker and result backend.
        store: the server of the checkpoints, empty for the broker's.
        ends: the server on which tasks record that they ran; it is not measured.
        trips: folder in which each worker process counts its round trips, or empty.
    """

    variant: str
    broker: str
    ends: str
    store: str = ""
    trips: str = ""

    def environment(self) -> dict[str, str]:
        """The place as environment variables of a worker process."""
        return {PREFIX + name.upper(): value for name, value in asdict(self).items()}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Place:
        """The reverse of :meth:`environment`."""
        return cls(**{name: environ[PREFIX + name.upper()] for name in cls.__dataclass_fields__})


class Failing(Exception):
    """The error of the last step of a saga that is to be compensated."""


class Bench:
    """One variant's app, and how the driver starts runs of it.

    Args:
        place: where it runs.
    """

    def __init__(self, place: Place) -> None:
        self.variant = VARIANTS[place.variant]
        self.app = Celery("bench", broker=place.broker, backend=place.broker, set_as_current=False)
        if self.variant.saga:
            SagaManager(self.app)
        self.app.conf.update(
            task_acks_late=True,
            task_serializer="json",
            result_serializer="json",
            accept_content=["json"],
            broker_connection_retry_on_startup=True,
        )
        if self.variant.saga:
            self.app.conf.saga_store_step_results = self.variant.results
            if self.variant.apart:
                self.app.conf.saga_store_url = place.store
        self._ends = redis.Redis.from_url(place.ends)
        self._sagas: dict[tuple[int, bool], Saga] = {}
        self._declare()

    def _declare(self) -> None:
        # shared=False: the driver has an app for each variant, with tasks of the same names.
        task = self.app.task

        @task(name="bench.step", shared=False)
        def step(order: dict[str, Any]) -> dict[str, Any]:
            return {**order, "done": order["done"] + 1}

        @task(name="bench.note", shared=False)
        def note(order: dict[str, Any]) -> dict[str, Any]:
            self._note(order, "done")
            return {**order, "done": order["done"] + 1}

        @task(name="bench.branch", shared=False)
        def branch(order: dict[str, Any]) -> int:
            return int(order["done"]) + 1

        @task(name="bench.joined", shared=False)
        def joined(values: list[int], order: dict[str, Any]) -> None:
            self._note(order, "done")

        @task(name="bench.after", shared=False)
        def after(order: dict[str, Any]) -> None:
            self._note(order, "done")

        @task(name="bench.failing", shared=False, throws=(Failing,))
        def failing(order: dict[str, Any]) -> None:
            self._note(order, "failing")
            raise Failing("as it is meant to")

        @task(name="bench.compensate", shared=False)
        def compensate(order: dict[str, Any] | None = None) -> None:
            return None

        @task(name="bench.compensate_and_note", shared=False)
        def compensate_and_note(order: dict[str, Any] | None = None) -> None:
            self._note(order or {}, "compensated")

        self.branch, self.joined, self.after = branch, joined, after
        self.step, self.note, self.failing = step, note, failing
        self.compensate, self.compensate_and_note = compensate, compensate_and_note

    def _note(self, order: Mapping[str, Any], what: str) -> None:
        # monotonic() is one clock for all processes of a machine.
        text = f"{what} {order['number']} {order['done']} {time.monotonic()!r}"
        self._ends.rpush(order["list"], text)

    def close(self) -> None:
        """Close the client's connections."""
        self._ends.close()
        self.app.close()

    def start(self, steps: int, order: dict[str, Any], blob: str | None = None) -> Any:
        """Start one run that succeeds; its last task records its end.

        Args:
            blob: a payload that no step touches.

        Returns:
            The handle that ``delay`` gives.
        """
        if self.variant.saga:
            extra = {} if blob is None else {"blob": blob}
            return self.saga(steps).delay(order=order, **extra)
        return self.chain(steps, order if blob is None else {**order, "blob": blob}).apply_async()

    def chain(self, steps: int, *args: Any) -> Any:
        """The chain of so many tasks, written as users write it: built for each run.

        Args:
            args: of the first task; left out, the chain waits for them.
        """
        quiet: dict[str, Any] = {} if self.variant.results else {"ignore_result": True}
        first = self.step.s(*args).set(**quiet)
        middle = (self.step.s().set(**quiet) for _ in range(steps - 2))
        return chain(first, *middle, self.note.s())

    def start_group(self, branches: int, order: dict[str, Any]) -> Any:
        """Start so many tasks that run at the same time, and one after them that records its end.

        Returns:
            The handle that ``delay`` gives.
        """
        if not self.variant.saga:
            header = [self.branch.s(order) for _ in range(branches)]
            return chord(header)(self.joined.s(order))
        found = self._sagas.get((-branches, False))
        if found is None:
            found = self._sagas[-branches, False] = self._build_group(branches)
        return found.delay(order=order)

    def _build_group(self, branches: int) -> Saga:
        saga = Saga(f"bench-group-{branches}")
        saga.parallel_step(
            *(
                LocalSagaStep(self.branch, name=f"b{number}", returns=f"b{number}").on_failure(
                    self.compensate
                )
                for number in range(branches)
            )
        )
        saga.local_step(self.after, returns=False)
        return saga.commit()

    def saga(self, steps: int, failing: bool = False) -> Saga:
        """The saga of so many steps, each with a compensation, as a module would hold it.

        Args:
            failing: its last step fails; the first step, the failing one, and the first and the
                last compensation record when they ran.
        """
        found = self._sagas.get((steps, failing))
        if found is None:
            found = self._sagas[steps, failing] = self._build(steps, failing)
        return found

    def _build(self, steps: int, failing: bool) -> Saga:
        saga = Saga(f"bench-{steps}")
        for number in range(steps):
            recorded = number == steps - 1 or (failing and number == 0)
            name = f"step-{number}"
            if failing and number == steps - 1:
                saga.local_step(self.failing, name=name)
                continue
            first_compensation = failing and number == steps - 2
            compensation = self.compensate
            if recorded or first_compensation:
                compensation = self.compensate_and_note
            action = self.note if recorded else self.step
            saga.local_step(action, name=name, returns="order").on_failure(compensation)
        return saga.commit()


def order(number: int, key: str) -> dict[str, Any]:
    """What a run is about, some 250 bytes as JSON.

    Args:
        number: of the run in its batch.
        key: the list in which its tasks record their ends.
    """
    return {
        "number": number,
        "list": key,
        "done": 0,
        "customer": f"customer-{number % 97}",
        "total": 1999,
        "items": [{"sku": f"sku-{item}", "quantity": 1 + item, "price": 333} for item in range(4)],
    }
