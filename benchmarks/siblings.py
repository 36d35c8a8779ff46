"""Branches that end at once: how often their saves meet, and how many a second there are.

All branches of one parallel step are claimed. Then some processes report them at the same time,
each its share, to one store. Each report is decided on the whole state, and saved only if no other
save came between; otherwise it is read and decided anew.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import redis

from celery_saga.core.events import Dispatch, StepSucceeded
from celery_saga.core.execution import Claim, Direction, SagaExecution, SagaStatus, StepRef
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.plan import Call, Parallel, Plan, PlanStep
from celery_saga.stores.redis.store import RedisStore
from celery_saga.testing.embedded import EmbeddedValkey

#: Seconds until all processes have claimed their share.
READY = 60.0


class NothingSent:
    """A publisher for sagas whose steps are claimed by this module; it sends nothing."""

    def message(self, execution: SagaExecution, command: Dispatch) -> Mapping[str, Any]:
        """Make an empty message."""
        return {}

    def first_message(self, execution: SagaExecution) -> tuple[SagaExecution, Mapping[str, Any]]:
        """Make an empty message."""
        return execution, {}

    def encode(self, message: object) -> None:
        """The store has nothing to write."""

    def publish(self, message: object) -> None:
        """Nothing is sent."""

    def undelivered(self, task_id: str) -> None:
        """Nothing is known."""

    def reconsider(self) -> None:
        """There is nothing to check."""


class CountedStore(RedisStore):
    """A store that counts saves, also those that came after another writer's."""

    saves = 0

    def save(self, *args: Any, **kwargs: Any) -> SagaExecution | None:
        """Save as a store does."""
        self.saves += 1
        return super().save(*args, **kwargs)


@dataclass(frozen=True)
class Figures:
    """What came of one group.

    Args:
        execution: the saga afterwards.
        seconds: from the first report to the last, of all processes.
        attempts: of each report how often it was saved until no other save came between.
    """

    execution: SagaExecution
    seconds: float
    attempts: tuple[int, ...]


def plan_of(branches: int) -> Plan:
    """A parallel step, and a step after it."""
    group = tuple(
        PlanStep(
            f"b{number}", Call(f"do.{number}", returns=f"b{number}"), Call(f"compensate.{number}")
        )
        for number in range(branches)
    )
    return Plan("siblings", (Parallel("group", group), PlanStep("last", Call("do.last"))))


def measure(url: str, branches: int = 100, processes: int = 4) -> Figures:
    """Let all branches of a new saga end at once.

    Args:
        url: of the store's server.
        branches: of the parallel step.
        processes: that report them.
    """
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(processes), context.Queue()
    saga_id = uuid.uuid4().hex
    with redis.Redis.from_url(url) as client:
        orchestrator = orchestrator_of(RedisStore(client))
        orchestrator.start(plan_of(branches), saga_id, {}, token="start")
        shares = [range(first, branches, processes) for first in range(processes)]
        workers = [
            context.Process(target=_report, args=(url, saga_id, share, ready, answers))
            for share in shares
        ]
        for worker in workers:
            worker.start()
        found = [answers.get(timeout=2 * READY) for _ in workers]
        for worker in workers:
            worker.join()
        execution = orchestrator.load(saga_id)
    attempts = tuple(each for _, _, counts in found for each in counts)
    began, ended = min(each[0] for each in found), max(each[1] for each in found)
    return Figures(execution, ended - began, attempts)


def orchestrator_of(store: RedisStore) -> Orchestrator:
    """One that sends nothing."""
    return Orchestrator(store, NothingSent(), _NoResults())


class _NoResults:
    """The results of these sagas are not stored."""

    def encode(self, execution: SagaExecution) -> None:
        """The store has nothing to write."""

    def publish(self, execution: SagaExecution) -> None:
        """There is nothing to do."""


def _report(url: str, saga_id: str, share: Sequence[int], ready: Any, answers: Any) -> None:
    """One process: claims its branches, waits for the others, and reports."""
    with redis.Redis.from_url(url) as client:
        store = CountedStore(client)
        orchestrator, attempts = orchestrator_of(store), []
        events = []
        for number in share:
            ref = StepRef((0, number), Direction.FORWARD, 1)
            known = orchestrator.claim(saga_id, ref, Claim(f"token {number}", "instance"))
            assert isinstance(known, SagaExecution)
            update = {f"b{number}": number}
            events.append((known, StepSucceeded(store.now(), ref, f"token {number}", update)))
        ready.wait(READY)
        began = time.time()
        for known, event in events:
            store.saves = 0
            orchestrator.apply(saga_id, event, known)
            attempts.append(store.saves)
        answers.put((began, time.time(), attempts))


def is_right(figures: Figures, branches: int) -> bool:
    """Whether no report was lost: all have succeeded, and the next step was sent once."""
    execution = figures.execution
    branch_ends = [execution.steps[(0, number)].effect for number in range(branches)]
    values = [execution.context.get(f"b{number}") == number for number in range(branches)]
    last = execution.ref((1,)) == StepRef((1,), Direction.FORWARD, 1)
    running = execution.status is SagaStatus.RUNNING
    return all(branch_ends) and all(values) and last and running


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("siblings", help="branches that end at once")
    add = parser.add_argument
    add("--branches", type=int, default=100, help="of the parallel step (100)")
    add("--processes", type=int, default=4, help="that report them at the same time (4)")
    add("--rounds", type=int, default=9, help="how often (9)")


def main(given: argparse.Namespace) -> int:
    """Measure and print; 1 if a report was lost."""
    with EmbeddedValkey() as server:
        found = [
            measure(server.url(0), given.branches, given.processes) for _ in range(given.rounds)
        ]
    rates = [given.branches / each.seconds for each in found]
    saves = [sum(each.attempts) / given.branches for each in found]
    most = max(max(each.attempts) for each in found)
    print(
        f"{given.branches} branches that end at once on {given.processes} processes, "
        f"{given.rounds} rounds: median {median(rates):.0f} reports/s "
        f"({min(rates):.0f} to {max(rates):.0f}), {median(saves):.2f} saves a report, "
        f"{most} at most"
    )
    right = all(is_right(each, given.branches) for each in found)
    if not right:
        print("a report was lost", file=sys.stderr)
    return 0 if right else 1
