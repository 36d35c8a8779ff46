"""Stopped processes that wake up: what they still report changes nothing but a late effect."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from celery_saga import Saga, SagaResult
from celery_saga.contrib.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.worker.apps import ways as tasks
from tests.worker.conftest import expect_no_leftovers
from tests.worker.harness import Site, Worker

pytestmark = pytest.mark.worker

DONE, UNDONE = "COMPLETED", "COMPENSATED"
ROWS = ("late", "early", "late undo", "early undo")

#: What another worker makes of the sagas meanwhile, and the directions of the bodies of ``a``.
TAKEN_OVER = {
    "late": (DONE, "ff"),
    "early": (UNDONE, "fc"),
    "late undo": (UNDONE, "fcc"),
    "early undo": (UNDONE, "fcc"),
}

_numbers = itertools.count(1)


@dataclass
class Victim:
    """A worker with a queue of its own, in which bodies of several sagas wait."""

    site: Site
    queue: str
    worker: Worker
    rescuer: Worker
    sagas: dict[str, SagaResult] = field(default_factory=dict)
    began: dict[str, dict[str, Any]] = field(default_factory=dict)

    def hold(self, row: str, way: str = "held once") -> None:
        """Start a saga whose step ``a``, or the undo of it, is begun when this returns."""
        ack, _, undo = row.partition(" ")
        task = {"late": tasks.late, "early": tasks.early}[ack]
        undo_task = {"late": tasks.undo, "early": tasks.early_undo}[ack]
        ways = {"a/c": way, "b/f": "declines"} if undo else {"a/f": way}
        saga = Saga("zombie", app=self.site.app)
        step = saga.local_step(tasks.late if undo else task, name="a", queue=self.queue)
        step.on_failure(undo_task if undo else tasks.undo, queue=self.queue)
        saga.local_step(tasks.late, name="b", queue=self.queue)
        result = self.sagas[row] = saga.commit().delay(ways=ways)
        self.began[row] = self.site.journal.wait(result.id, "began", 3 if undo else 1)

    def stop(self, what: str) -> None:
        """SIGSTOP for the whole worker, its main process alone, or the bodies' processes alone."""
        self._signal(what, signal.SIGSTOP)

    def wake(self, what: str) -> None:
        self._signal(what, signal.SIGCONT)

    def _signal(self, what: str, number: int) -> None:
        if what == "worker":
            os.killpg(self.worker.process.pid, number)
        elif what == "main":
            os.kill(self.worker.process.pid, number)
        else:
            for line in self.began.values():
                os.kill(line["pid"], number)

    def let_end(self, row: str) -> None:
        """Let a held body of the row end."""
        gate = "a/c" if "undo" in row else "a/f"
        self.site.journal.open(self.sagas[row].id, gate)

    def ledger(self, row: str) -> tuple[str, str]:
        """How the saga ended, and the directions of the bodies of ``a``."""
        result = self.sagas[row]
        status = self.site.settled(result)
        began = self.site.journal.began(result.id)
        return status, "".join(name[2:] for name in began if name.startswith("a/"))

    def zombie_ended(self, row: str) -> None:
        """Wait until the body that was stopped has told that it is over."""
        result, pid = self.sagas[row], self.began[row]["pid"]
        wait_for(
            lambda: any(line["pid"] == pid for line in self.ends(row)),
            20,
            description=f"{row} of {result.id} to end in {pid}: {self.site.journal.of(result.id)}",
        )

    def ends(self, row: str) -> list[dict[str, Any]]:
        undo = "c" if "undo" in row else "f"
        said = self.site.journal.said(self.sagas[row].id, "ended")
        return [line for line in said if (line["step"], line["direction"]) == ("a", undo)]

    def too_late(self, row: str) -> None:
        """Wait until the stopped body's report was made, and was of no use."""
        text = f"saga {self.sagas[row].id}: the report of"
        wait_for(lambda: text in self.worker.text(), 20, description=f"{row}: its late report")


@pytest.fixture(scope="module")
def arena(journal, folder) -> Iterator[tuple[Site, Worker]]:
    """A database with a worker that serves no queue until it is told to."""
    with EmbeddedValkey() as server:
        site = Site(server.url(), journal, folder)
        rescuer = site.start("-Q", "rescue", "-c", "4", app="tests.worker.apps.table")
        try:
            yield site, rescuer.wait_until_ready()
        finally:
            site.close()


@contextmanager
def victim(
    arena: tuple[Site, Worker], way: str = "held once", **settings: float
) -> Iterator[Victim]:
    """A worker that has begun a body of each row."""
    site, rescuer = arena
    queue = f"zombies-{next(_numbers)}"
    options = ("-c", str(len(ROWS)), "-Q", queue)
    worker = site.worker(*options, app="tests.worker.apps.table", **settings)
    found = Victim(site, queue, worker, rescuer)
    for row in ROWS:
        found.hold(row, way)
    yield found
    site.app.control.cancel_consumer(queue, destination=[rescuer.name])
    worker.kill()
    expect_no_leftovers(site)


def rescue(found: Victim) -> None:
    """Let another worker have the queue."""
    found.site.app.control.add_consumer(found.queue, destination=[found.rescuer.name])


def take_over(found: Victim, what: str) -> dict[str, dict[str, Any]]:
    """Stop it for so long that another worker ends its sagas; what they are then."""
    found.stop(what)
    rescue(found)
    for row in ROWS:
        assert found.ledger(row) == TAKEN_OVER[row], row
    return {row: found.sagas[row].execution.raw for row in ROWS}


@pytest.fixture(scope="module", params=["worker", "main"])
def woken(request, arena) -> Iterator[tuple[Victim, dict[str, dict[str, Any]]]]:
    """Its sagas are over; then the bodies go on, and so does what was stopped.

    The pool's processes run on when the main process alone is stopped: their bodies end before it
    wakes up.
    """
    with victim(arena) as found:
        before = take_over(found, request.param)
        if request.param == "worker":
            found.wake("worker")
        for row in ROWS:
            found.let_end(row)
            found.zombie_ended(row)
        if request.param == "main":
            found.wake("main")
        yield found, before


class TestTakenOver:
    """The worker, or its main process, was stopped past its liveness; its sagas went on."""

    @pytest.mark.parametrize("row", ["late", "late undo", "early undo"])
    def test_a_late_report_changes_nothing(self, woken, row):
        found, before = woken
        found.too_late(row)
        assert found.sagas[row].execution.raw == before[row]
        assert found.ledger(row) == TAKEN_OVER[row]

    def test_the_late_effect_of_a_step_that_was_undone_is_undone_again(self, woken):
        found, _ = woken
        result = found.sagas["early"]
        wait_for(lambda: [n.what for n in result.execution.history] == ["late effect"])
        assert found.ledger("early") == (UNDONE, "fcc")
        keys = [line["idempotency_key"] for line in found.site.journal.said(result.id, "began")]
        assert keys[1:] == [f"{result.id}/a/c/0", f"{result.id}/a/c/1"]

    def test_the_worker_goes_on_working(self, woken):
        found, _ = woken
        found.site.app.control.cancel_consumer(
            found.queue, destination=[found.rescuer.name], reply=True, timeout=10
        )
        saga = Saga("after", app=found.site.app)
        saga.local_step(tasks.late, name="a", queue=found.queue)
        assert found.site.settled(saga.commit().delay()) == DONE


class TestEndsWhileItsSuccessorRuns:
    """The stopped body ends when another worker has begun the same step, and has not ended it."""

    @pytest.fixture(scope="class")
    @classmethod
    def woken(cls, arena):
        with victim(arena, "held") as found:
            found.stop("worker")
            rescue(found)
            for row in ROWS:
                count = {"late": 2, "early": 2, "late undo": 4, "early undo": 4}[row]
                found.site.journal.wait(found.sagas[row].id, "began", count)
            found.wake("worker")
            for row in ROWS:
                found.let_end(row)  # the stopped body stands first at the gate
                found.zombie_ended(row)
            yield found

    @pytest.mark.parametrize("row", ["late", "late undo", "early undo"])
    def test_it_does_not_end_the_step(self, woken, row):
        if row == "late":  # that its effect is there is noted
            wait_for(lambda: len(woken.sagas[row].execution.steps[0].reported) == 1)
        else:
            woken.too_late(row)
        step = woken.sagas[row].execution.steps[0]
        assert step.status.value == ("RUNNING" if row == "late" else "COMPENSATING")
        assert step.claim is not None
        assert step.claim.instance != ""
        woken.let_end(row)
        assert woken.ledger(row) == TAKEN_OVER[row]
        assert len(woken.ends(row)) == 2

    def test_a_step_that_was_undone_meanwhile_is_undone_again(self, woken):
        assert woken.ledger("early") == (UNDONE, "fcc")


class TestStoppedChildren:
    """The bodies' processes alone: their worker lives, so the steps stay theirs."""

    @pytest.fixture(scope="class")
    @classmethod
    def woken(cls, arena):
        with victim(arena) as found:
            found.stop("children")
            rescue(found)
            found.site.pass_time(3 * found.site.settings["saga_heartbeat_ttl"])
            found.wake("children")
            for row in ROWS:
                found.let_end(row)
            yield found

    @pytest.mark.parametrize("row", ROWS)
    def test_no_body_is_run_twice(self, woken, row):
        expected = (UNDONE, "fc") if "undo" in row else (DONE, "f")
        assert woken.ledger(row) == expected


class TestStoppedForLessThanItsLiveness:
    """A pause that is over before the worker counts as dead costs nothing."""

    #: Seconds; much more than a busy machine adds to a pause of half of them.
    TTL = 5.0

    @pytest.fixture(scope="class")
    @classmethod
    def woken(cls, arena):
        with victim(arena, saga_heartbeat_ttl=cls.TTL) as found:
            rescue(found)
            for _ in range(2):
                newest = alive_until(found)
                wait_for(lambda last=newest: alive_until(found) > last)
                found.stop("worker")
                found.site.pass_time(cls.TTL / 2)
                found.wake("worker")
            for row in ROWS:
                found.let_end(row)
            yield found

    @pytest.mark.parametrize("row", ROWS)
    def test_no_body_is_run_twice(self, woken, row):
        expected = (UNDONE, "fc") if "undo" in row else (DONE, "f")
        assert woken.ledger(row) == expected


def alive_until(found: Victim) -> float:
    """The store time until which the worker counts as alive."""
    boot = found.sagas["late"].execution.steps[0].claim.instance
    return float(found.site.client.zscore("saga:instances", boot))
