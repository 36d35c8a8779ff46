"""What looks like a loss and is not one, at default settings and with real times."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import redis

from benchmarks.fleet import BenchmarkError
from benchmarks.recovery.stage import Stage, Worker, until
from celery_saga import SagaResult
from celery_saga.testing.embedded import EmbeddedValkey

#: Seconds of a long step, of one that outlasts an outage, and of the outage.
LONG, LONGER, OUTAGE = 20, 45, 30
#: Seconds for which a worker is stopped right after a heartbeat; it counts as alive for six.
STOPPED = 5
CHILDREN, BACKLOG, PREFETCH = 200, 10_000, 100

#: Both ways to acknowledge: a loss would cost a rerun or a compensation.
ACKS = ("late", "early")


@dataclass(frozen=True)
class Calm:
    """What happened, and how many bodies it cost.

    Args:
        what: in words.
        bodies: that ran.
        extra: of these, more than the sagas have steps.
        seconds: that it took.
    """

    what: str
    bodies: int
    extra: int
    seconds: float


def run() -> list[Calm]:
    """All of them; those that mostly wait at the same time.

    Raises:
        BenchmarkError: a saga did not complete.
    """
    waiting = (_solo, _broker_unavailable, _store_unavailable, _stopped, _prefetch)
    found = []
    with ThreadPoolExecutor(len(waiting)) as pool:
        for each in [pool.submit(_timed, case) for case in waiting]:
            found.append(each.result())
    return [*found, _timed(_replaced), _timed(_backlog)]


def _timed(case: Callable[[], tuple[str, int, int]]) -> Calm:
    begun = time.monotonic()
    what, bodies, extra = case()
    print(f"{what}: {extra} extra bodies", file=sys.stderr, flush=True)
    return Calm(what, bodies, extra, time.monotonic() - begun)


def _count(stage: Stage, results: Sequence[SagaResult], steps: str) -> tuple[int, int]:
    """Bodies of all sagas, and those that are too many; each saga is to complete."""
    ran = extra = 0
    for result in results:
        until(f"the end of {result.id}", result.ready)
        bodies = stage.bodies(result)
        ran, extra = ran + len(bodies), extra + len(bodies) - len(steps)
        if set(steps) - set(bodies):
            raise BenchmarkError(f"{result.id} is {result.status} with {bodies!r}, not {steps!r}")
    return ran, extra


def _begin(stage: Stage, queue: str, seconds: float) -> list[SagaResult]:
    """A saga with a step of so many seconds for each way to acknowledge, which have begun."""
    sagas = [stage.saga(("a", ack, queue), ("b", ack, queue)) for ack in ACKS]
    results = [saga.delay(ways={"a/f": seconds}) for saga in sagas]
    for result in results:
        stage.held(result, 1)
    return results


def _solo() -> tuple[str, int, int]:
    with Stage() as stage:
        queues = [stage.queue() for _ in ACKS]
        workers = [stage.worker(queue, "-P", "solo") for queue in queues]
        workers.append(stage.worker(stage.queue()))  # one that could declare them dead
        for worker in workers:
            worker.ready()
        sagas = [stage.saga(("a", ack, q)) for ack, q in zip(ACKS, queues, strict=True)]
        results = [saga.delay(ways={"a/f": LONG}) for saga in sagas]
        return f"a step of {LONG} s under solo", *_count(stage, results, "a")


def _broker_unavailable() -> tuple[str, int, int]:
    with Stage(apart=True) as stage:
        queue, solo = stage.queue(), stage.queue()
        kinds = {queue: ("-c", "2"), solo: ("-P", "solo")}
        workers = {name: stage.worker(name, *options) for name, options in kinds.items()}
        for worker in workers.values():
            worker.ready()
        results = _begin(stage, queue, LONGER)
        results.append(
            stage.saga(("a", "late", solo), ("b", "late", solo)).delay(ways={"a/f": LONGER})
        )
        stage.held(results[-1], 1)
        _outage(stage.broker)

        def over() -> bool:
            """Celery ends a prefork worker whose Redis broker disconnects: start it anew."""
            for name, options in kinds.items():
                if not workers[name].process.alive:
                    workers[name] = stage.worker(name, *options)
            return all(result.ready() for result in results)

        until("all sagas to settle", over)
        return f"the broker unavailable for {OUTAGE} s under steps of {LONGER} s", *_count(
            stage, results, "ab"
        )


def _store_unavailable() -> tuple[str, int, int]:
    with Stage(apart=True) as stage:
        queues = [stage.queue() for _ in range(2)]
        for worker in [stage.worker(queue, "-c", "4") for queue in queues]:
            worker.ready()
        results = [
            result
            for queue in queues
            for seconds in (LONGER, LONG)  # some end while it is unavailable
            for result in _begin(stage, queue, seconds)
        ]
        _outage(stage.store)
        what = f"the store unavailable for {OUTAGE} s under steps of {LONG} and {LONGER} s"
        return what, *_count(stage, results, "ab")


def _outage(server: EmbeddedValkey) -> None:
    server.kill()
    time.sleep(OUTAGE)
    server.restart()


def _stopped() -> tuple[str, int, int]:
    with Stage() as stage:
        queue = stage.queue()
        worker, other = stage.worker(queue, "-c", "2"), stage.worker(stage.queue())
        worker.ready()
        other.ready()
        results = _begin(stage, queue, LONGER)
        execution = results[0].execution
        claim = execution.steps[0].claim
        if claim is None:
            raise BenchmarkError(f"{execution.saga_id} is not claimed")
        times = 4
        for _ in range(times):
            _stop_after_a_heartbeat(stage, worker, claim.instance)
        what = f"a worker stopped {times} times for {STOPPED} s under steps of {LONGER} s"
        return what, *_count(stage, results, "ab")


def _stop_after_a_heartbeat(stage: Stage, worker: Worker, instance: str) -> None:
    with closing(redis.Redis.from_url(stage.store.url())) as client:
        last = client.zscore("saga:instances", instance)
        until("a heartbeat", lambda: client.zscore("saga:instances", instance) != last)
    os.killpg(worker.process.pid, signal.SIGSTOP)
    time.sleep(STOPPED)
    os.killpg(worker.process.pid, signal.SIGCONT)


def _replaced() -> tuple[str, int, int]:
    with Stage() as stage:
        queue = stage.queue()
        stage.worker(queue, "-c", "2", "--max-tasks-per-child", "1").ready()
        names = "abcdefghijklmnopqrst"
        saga = stage.saga(*[(name, "late", queue) for name in names])
        results = [saga.delay() for _ in range(CHILDREN // len(names))]
        return f"{CHILDREN} children replaced", *_count(stage, results, names)


def _backlog() -> tuple[str, int, int]:
    with Stage() as stage:
        queue = stage.queue()
        saga = stage.saga(("a", "late", queue))
        results = [saga.delay() for _ in range(BACKLOG)]
        for worker in [stage.worker(queue, "-c", "1") for _ in range(2)]:
            worker.ready()
        for result in results:
            until("the backlog to be processed", result.ready, 1200)
        # Copies of messages that had waited for long are behind them.
        with closing(redis.Redis.from_url(stage.broker.url())) as client:
            until("the queue to be empty", lambda: not client.llen(queue))
        again = sum(result.execution.steps[0].republished for result in results)
        what = f"{BACKLOG:,} messages wait ({again:,} sent again)"
        return what, *_count(stage, results, "a")


def _prefetch() -> tuple[str, int, int]:
    with Stage(worker_prefetch_multiplier=PREFETCH) as stage:
        queue = stage.queue()
        workers = stage.worker(queue, "-c", "1"), stage.worker(stage.queue())
        for worker in workers:
            worker.ready()
        saga = stage.saga(("a", "late", queue))
        results = [saga.delay(ways={"a/f": 0.4}) for _ in range(PREFETCH + 1)]
        return f"a worker that holds {PREFETCH} messages", *_count(stage, results, "a")
