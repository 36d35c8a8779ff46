"""Two of everything at the same moment: each time one effect, and every caller gets the truth."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest

from celery_saga import SagaManager
from celery_saga.core.execution import Claim, SagaStatus
from celery_saga.runtime import runtime_of
from tests.worker.apps.steps import compensation, early, late
from tests.worker.harness import ROOT

pytestmark = pytest.mark.worker

#: How often each race is run.
ROUNDS = 60
#: Seconds from the word to the start; all have made themselves ready by then.
LEAD = 0.03
#: Seconds by which the second may start before or after the first.
SPREAD = 0.002


class Racer:
    """A process with a manager of its own; see :mod:`tests.worker.apps.racer`."""

    def __init__(self, site: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.worker.apps.racer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT), **site.environment()},
            cwd=ROOT,
            text=True,
        )

    def ready(self) -> None:
        assert self._line() == "ready"

    def order(self, verb: str, at: float, *args: Any) -> None:
        assert self._process.stdin is not None
        print(json.dumps([verb, at, *args]), file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate(timeout=20)  # it ends with its input


@pytest.fixture
def racers(site) -> Iterator[list[Racer]]:
    with ExitStack() as stack:
        found = [stack.enter_context(closing(Racer(site))) for _ in range(2)]
        for racer in found:
            racer.ready()
        yield found


def race(racers: list[Racer], *words: tuple[Any, ...]) -> list[Any]:
    """Let each racer do what its word says at about the same moment; their answers."""
    start = time.monotonic() + LEAD
    for racer, (verb, *args) in zip(racers, words, strict=True):
        racer.order(verb, start + random.uniform(0, SPREAD), *args)
    return [racer.answer() for racer in racers]


def messages(site) -> Counter[str]:
    """How often each task id is in the queue."""
    found = site.client.lrange("celery", 0, -1)
    return Counter(json.loads(raw)["headers"]["id"] for raw in found)


def claim(site, result, instance: str = "instance") -> None:
    runtime = runtime_of(site.app)
    execution = result.execution
    ref = execution.first_active
    runtime.store.claim(result.id, ref, Claim(f"token of {result.id}", instance))


def end_all(site, results) -> None:
    """Let a worker do what is left of them."""
    site.worker()
    for result in results:
        site.settled(result)


def test_two_managers_start_the_same_saga(site, racers):
    ids = [f"race-{number}" for number in range(ROUNDS)]
    for saga_id in ids:
        assert sorted(race(racers, ("start", saga_id), ("start", saga_id))) == [False, True]
    assert messages(site) == {f"{saga_id}~f0~1": 1 for saga_id in ids}
    end_all(site, [SagaManager(site.app).get(saga_id) for saga_id in ids])
    for saga_id in ids:
        assert site.journal.began(saga_id) == ["only/f"]


class TestTwoCancels:
    @pytest.mark.parametrize("held", [False, True], ids=["waiting step", "running step"])
    def test_one_of_them_did_it(self, site, racers, held):
        saga = site.saga(("a", late, compensation))
        results = [saga.delay() for _ in range(ROUNDS)]
        for result in results:
            if held:
                claim(site, result, "dead")
            answers = race(racers, ("cancel", result.id), ("cancel", result.id))
            execution = result.execution
            assert sorted(answers) == [False, True]
            assert [note.what for note in execution.history] == ["cancel"]
            assert execution.status == ("RUNNING" if held else "COMPENSATED")
        runtime_of(site.app).store.heartbeat("dead", 0.1, ())
        end_all(site, results)
        for result in results:
            assert site.journal.began(result.id) == ["a/c"] * held


class TestCancelAgainstTheLastCommit:
    def test_what_it_says_is_what_becomes_of_the_saga(self, site, racers):
        saga = site.saga(("a", late, compensation))
        seen: Counter[bool] = Counter()
        while min(seen[True], seen[False]) < ROUNDS / 6 or seen.total() < ROUNDS:
            result = saga.delay()
            site.client.delete("celery")
            claim(site, result)  # a racer may be late, and the step is to run before the race
            words = [("cancel", result.id), ("commit", result.id, "f0~1")]
            turn = seen.total() % 2  # the first starts a little before the second
            cancelled, committed = race(racers, *words[:: 1 - 2 * turn])[:: 1 - 2 * turn]
            execution = result.execution
            assert committed is True
            seen[cancelled] += 1
            if cancelled:
                assert execution.status is SagaStatus.COMPENSATING
                assert messages(site) == {f"{result.id}~c0~2": 1}
            else:
                assert execution.status is SagaStatus.COMPLETED
                assert messages(site) == {}
                assert site.app.AsyncResult(result.id).state == "SUCCESS"
            runtime_of(site.app).store.delete(result.id)

    def test_with_a_worker(self, site):
        """The gate opens as the cancel comes."""
        site.worker()
        saga = site.saga(("a", late, compensation), ("b", early, compensation))
        with ThreadPoolExecutor(1) as other:
            for _ in range(ROUNDS):
                result = saga.delay(hold=["b/f"])
                site.journal.wait(result.id, "began", 2)
                opened = other.submit(site.journal.open, result.id, "b/f")
                cancelled = result.cancel()
                opened.result()
                there, back = ["a/f", "b/f"], ["b/c", "a/c"]
                status = site.settled(result)
                assert status == ("COMPENSATED" if cancelled else "COMPLETED")
                assert site.journal.began(result.id) == there + (back if cancelled else [])
                state = "FAILURE" if cancelled else "SUCCESS"
                assert site.app.AsyncResult(result.id).state == state


class TestTwoSweeps:
    def test_lost_messages_are_sent_again_once(self, site, racers):
        saga = site.saga(("a", late, compensation), ("b", late))
        results = [saga.delay() for _ in range(ROUNDS)]
        site.client.delete("celery")
        site.pass_time(5)  # until they are missed

        race(racers, ("sweep",), ("sweep",))

        assert messages(site) == {f"{result.id}~f0~1": 1 for result in results}
        assert {result.execution.steps[0].republished for result in results} == {1}
        end_all(site, results)
        for result in results:
            assert site.journal.began(result.id) == ["a/f", "b/f"]

    def test_what_is_due_is_sent_once(self, site, racers):
        saga = site.saga(("a", late))
        results = [saga.apply_async({}, countdown=1) for _ in range(ROUNDS)]
        site.pass_time(2)

        race(racers, ("sweep",), ("sweep",))

        assert messages(site) == {f"{result.id}~f0~1": 1 for result in results}
        end_all(site, results)

    def test_the_claims_of_a_dead_worker_are_void_once(self, site, racers):
        sagas = {
            task: site.saga(("a", task, compensation), ("b", late), name=task.name)
            for task in (late, early)
        }
        store = runtime_of(site.app).store
        store.heartbeat("dead", 0.1, ())
        results = {task: [saga.delay() for _ in range(ROUNDS)] for task, saga in sagas.items()}
        for result in [*results[late], *results[early]]:
            claim(site, result, "dead")
        site.client.delete("celery")
        site.pass_time(0.2)

        race(racers, ("reclaim", "dead"), ("reclaim", "dead"))

        assert messages(site) == {
            **{f"{result.id}~f0~2": 1 for result in results[late]},
            **{f"{result.id}~c0~2": 1 for result in results[early]},
        }
        assert {result.execution.steps[0].lost for result in results[late]} == {1}
        assert store.claims_of("dead") == []
        end_all(site, [*results[late], *results[early]])
        for result in results[late]:
            assert site.journal.began(result.id) == ["a/f", "b/f"]
        for result in results[early]:
            assert site.journal.began(result.id) == ["a/c"]
