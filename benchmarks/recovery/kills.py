"""Kills of children, of a worker and of two at once: from the kill to the saga's next body."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.fleet import BenchmarkError
from benchmarks.recovery.stage import Stage, Worker, until
from celery_saga import SagaResult

#: What a worker is in the middle of when it is killed: status and bodies that must come of it.
HELD = {
    "in a step, late ack": ("COMPLETED", "aab"),
    "in a step, early ack": ("COMPENSATED", "aA"),
    "in a compensation, late ack": ("COMPENSATED", "abAA"),
    "in a compensation, early ack": ("COMPENSATED", "abAA"),
}
BETWEEN = {
    "between two steps, late ack": ("COMPLETED", "ab"),
    "between two steps, early ack": ("COMPLETED", "ab"),
    "between two compensations, late ack": ("COMPENSATED", "abcBA"),
    "between two compensations, early ack": ("COMPENSATED", "abcBA"),
}
OUTCOMES = {**HELD, **BETWEEN}

#: Cells of ten kills, four of them of children: their kind, and whether other workers are alive.
TEN = (("child", True), *[("worker", True)] * 3, ("worker", False), ("two workers", True))
#: Every second pair of workers is all there is.
TEN_ALONE = (*TEN[:-1], ("two workers", False))

#: The queue of the workers that are not killed.
HELPER = "helper"

#: Seconds over which the kills are spread after all bodies have begun: a heartbeat.
PHASE = 2.0


@dataclass(frozen=True)
class Sample:
    """One saga that was hit by a kill.

    Args:
        kind: what was killed.
        moment: in the middle of what.
        others: whether another worker was alive; if not, the time counts from when the next one
            was ready.
        seconds: until its next body began.
        extra: bodies that ran more often than they had to.
    """

    kind: str
    moment: str
    others: bool
    seconds: float
    extra: int


class Cell:
    """One or two targets with a queue of their own, in the middle of a saga of each kind.

    Args:
        stage: where they are.
        kind: what is killed.
        source: of the moment of the kill.
        helper: a worker that stays alive; without one the next worker is started after the kill.
    """

    def __init__(
        self, stage: Stage, kind: str, source: random.Random, helper: Worker | None
    ) -> None:
        self.stage, self.kind, self.random, self.helper = stage, kind, source, helper
        count = 2 if kind == "two workers" else 1
        self.queues = [stage.queue() for _ in range(count)]
        self.targets = [stage.worker(queue, "-c", str(len(HELD))) for queue in self.queues]
        self.sagas: list[tuple[str, SagaResult]] = []
        self.pids: list[int] = []

    def run(self) -> list[Sample]:
        """Start, kill, and sample the sagas."""
        for target, queue in zip(self.targets, self.queues, strict=True):
            target.ready()
            self._fill(queue)
        time.sleep(self.random.uniform(0, PHASE))
        if self.kind == "child":
            return self._kill_children()
        killed = max([target.kill() for target in self.targets])
        for target in self.targets:
            target.process.wait()
        since = max(killed, self._successor())
        return [self._sample(moment, result, since) for moment, result in self.sagas]

    def _fill(self, queue: str) -> None:
        for moment in HELD:
            ack = _ack(moment)
            in_compensation = "compensation" in moment
            saga = self.stage.saga(("a", ack, queue), ("b", ack, queue))
            ways = {"a/c": "held", "b/f": "fails"} if in_compensation else {"a/f": "held"}
            result = saga.delay(ways=ways)
            self.pids.append(self.stage.held(result, 3 if in_compensation else 1)["pid"])
            self.sagas.append((moment, result))
        feeder = self.stage.worker(HELPER, "-c", "2") if self.helper is None else None
        self.sagas += [(moment, self._between(moment, queue)) for moment in BETWEEN]
        if feeder is not None:  # it has run what came before, and no worker is to be alive later
            feeder.process.terminate()
            feeder.process.wait()

    def _between(self, moment: str, queue: str) -> SagaResult:
        """A saga whose next message a target has, but no process for it; the rest ran elsewhere."""
        ack = _ack(moment)
        if "steps" in moment:
            saga = self.stage.saga(("a", ack, HELPER), ("b", ack, queue))
            result = saga.delay()
        else:
            others = [(step, ack, HELPER) for step in "bc"]
            saga = self.stage.saga(("a", ack, HELPER, queue), *others)
            result = saga.delay(ways={"c/f": "fails"})
        step, status = ("b", "RUNNING") if "steps" in moment else ("a", "COMPENSATING")
        until(f"{moment}: {result.id}", lambda: result.progress[step] == status)
        return result

    def _kill_children(self) -> list[Sample]:
        """One after the other; the first one makes room for the messages that wait."""
        killed = []
        for pid in self.pids:
            time.sleep(self.random.uniform(0, PHASE / len(self.pids)))
            killed.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)
        killed += [killed[0]] * (len(self.sagas) - len(killed))
        return [
            self._sample(moment, result, since)
            for (moment, result), since in zip(self.sagas, killed, strict=True)
        ]

    def _successor(self) -> float:
        """When a worker could continue: let the others have the queues, or start a new one."""
        if self.helper is None:
            return self.stage.worker(",".join(self.queues), "-c", "4").ready()
        for queue in self.queues:
            self.stage.serve(self.helper, queue)
        return 0.0

    def _sample(self, moment: str, result: SagaResult, since: float) -> Sample:
        """Wait for the end of a saga that was hit.

        Raises:
            BenchmarkError: it did not continue, or did not end as it must.
        """
        status, expected = OUTCOMES[moment]
        until(f"{self.kind}, {moment}: the end of {result.id}", result.ready)
        bodies = self.stage.bodies(result)
        extra = len(bodies) - len(expected)
        if result.status != status or extra < 0:
            raise BenchmarkError(
                f"{self.kind}, {moment}: {result.id} is {result.status} with {bodies!r}, "
                f"not {status} with {expected!r}"
            )
        continued = next(note["at"] for note in self.stage.began(result) if note["at"] > since)
        return Sample(self.kind, moment, self.helper is not None, continued - since, extra)


def _ack(moment: str) -> str:
    return "late" if "late" in moment else "early"


def run(kills: int, seed: int, jobs: int, helpers: int = 2) -> list[Sample]:
    """So many kills, several at a time.

    Args:
        kills: processes or workers that are killed; rounded up to a whole number of tens.
        seed: of the moments of the kills.
        jobs: cells at a time.
        helpers: workers that are alive all the time, and take over.

    Raises:
        BenchmarkError: a saga did not continue, or not as it must.
    """
    source = random.Random(seed)
    cells = [
        (kind, others, source.random())
        for ten in range(-(-kills // 10))
        for kind, others in (TEN_ALONE if ten % 2 else TEN)
    ]
    with Stage() as stage, ThreadPoolExecutor(jobs) as pool:
        alive = [stage.worker(HELPER, "-c", "4") for _ in range(helpers)]
        for worker in alive:
            worker.ready()
        runs = [
            pool.submit(_cell, stage, alive[number % helpers], *cell)
            for number, cell in enumerate(cells)
        ]
        samples: list[Sample] = []
        for number, each in enumerate(runs, 1):
            samples += each.result()
            print(f"{number} of {len(runs)} cells", file=sys.stderr, flush=True)
        return samples


def _cell(stage: Stage, helper: Worker, kind: str, others: bool, seed: float) -> list[Sample]:
    source = random.Random(seed)
    if others:
        return Cell(stage, kind, source, helper).run()
    with Stage() as alone:
        return Cell(alone, kind, source, None).run()
