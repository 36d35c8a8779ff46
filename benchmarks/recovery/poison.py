"""A step that kills its worker each time, with restarted workers: what happens to other sagas."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.fleet import BenchmarkError
from benchmarks.recovery.stage import Stage, Worker, until
from celery_saga import SagaResult

#: Seconds between the starts of two harmless sagas.
PAUSE = 0.25


@dataclass(frozen=True)
class Poison:
    """What happened to a fleet.

    Args:
        workers: of the fleet.
        bodies: of the poisonous step, each of which killed a worker.
        extra: of these, more than the first and ``saga_max_redeliveries``.
        least: the fewest workers that were ready at any moment.
        harmless: seconds that each of the other sagas took, of two steps without work.
        seconds: until the poisonous saga was compensated.
    """

    workers: int
    bodies: int
    extra: int
    least: int
    harmless: tuple[float, ...]
    seconds: float


def run(sizes: tuple[int, ...] = (1, 2, 3)) -> list[Poison]:
    """Fleets of several sizes, one after the other.

    Raises:
        BenchmarkError: a saga did not end as it must.
    """
    return [_run(size) for size in sizes]


def _run(size: int) -> Poison:
    with Stage() as stage:
        queue = stage.queue()
        workers = [_start(stage, queue) for _ in range(size)]
        for worker in workers:
            worker.ready()
        harmless = stage.saga(("a", "late", queue), ("b", "late", queue))
        others: list[SagaResult] = []
        least, begun, next_start = size, time.monotonic(), 0.0
        poison = stage.saga(("a", "late", queue)).delay(ways={"a/f": "kills"})

        def over() -> bool:
            nonlocal least, next_start
            least = min(least, sum(worker.is_ready for worker in workers))
            for place, worker in enumerate(workers):
                if not worker.process.alive:
                    workers[place] = _start(stage, queue)
            if time.monotonic() > next_start:
                next_start = time.monotonic() + PAUSE
                others.append(harmless.delay())
            return poison.ready()

        until("the poisonous saga to settle", over)
        seconds = time.monotonic() - begun
        for result in others:
            until(f"the end of {result.id}", result.ready)
        _check(poison, "COMPENSATED")
        for result in others:
            _check(result, "COMPLETED")
        bodies = stage.bodies(poison).count("a")
        extra = max(0, bodies - 1 - poison.execution.plan.max_redeliveries)
        took = [r.execution.updated_at - r.execution.created_at for r in others]
        return Poison(size, bodies, extra, least, tuple(took), seconds)


def _start(stage: Stage, queue: str) -> Worker:
    return stage.worker(queue, "-c", "2")


def _check(result: SagaResult, status: str) -> None:
    if result.status != status:
        raise BenchmarkError(f"{result.id} is {result.status}, not {status}")
