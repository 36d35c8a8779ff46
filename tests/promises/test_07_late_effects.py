"""Stopped processes that wake up: what they still report changes nothing but a late effect."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from celery_saga import Saga
from tests.helpers import wait_for
from tests.worker.apps import bodies as tasks
from tests.worker.stage import expect_no_leftovers
from tests.worker.targets import (
    ALL,
    COMPENSATED,
    DONE,
    ENDED,
    LOST,
    SitePair,
    Target,
    hold_all,
    site_pair_of,
)
from tests.worker.targets import target as new_target

pytestmark = pytest.mark.worker


def send(found: Target, what: str, number: int) -> None:
    """A signal for the whole worker, its main process alone, or the bodies' processes alone."""
    if what == "worker":
        os.killpg(found.worker.process.pid, number)
    elif what == "main":
        os.kill(found.worker.process.pid, number)
    else:
        for line in found.began.values():
            os.kill(line["pid"], number)


def stop(found: Target, what: str) -> None:
    send(found, what, signal.SIGSTOP)


def wake(found: Target, what: str) -> None:
    send(found, what, signal.SIGCONT)


def ends(found: Target, row: str) -> list[dict[str, Any]]:
    """What the journal says of the ends of the bodies that were held, or are of the same kind."""
    direction = "c" if "compensation" in row else "f"
    said = found.journal.said(found.sagas[row].id, "ended")
    return [line for line in said if (line["step"], line["direction"]) == ("a", direction)]


def zombie_ended(found: Target, row: str) -> None:
    """Wait until the body that was stopped has recorded its end."""
    pid = found.began[row]["pid"]
    wait_for(
        lambda: any(line["pid"] == pid for line in ends(found, row)),
        20,
        description=f"{row} to end in {pid}: {found.journal.of(found.sagas[row].id)}",
    )


def too_late(found: Target, row: str) -> None:
    """Wait until the stopped body's report was made, and was of no use."""
    text = f"saga {found.sagas[row].id}: the report of"
    wait_for(lambda: text in found.worker.text(), 20, description=f"{row}: its late report")


@pytest.fixture(scope="module")
def site_pair(journal, folder) -> Iterator[SitePair]:
    with site_pair_of(journal, folder) as found:
        yield found


@contextmanager
def target(site_pair: SitePair, way: str = "held once", **settings: float) -> Iterator[Target]:
    """A worker that has begun a body of each row."""
    found = new_target(site_pair, **settings)
    hold_all([found], way=way)
    for line in found.began.values():  # or its successor would be the first at the gate
        wait_for(lambda pid=line["pid"]: found.journal.waits(pid), description="it to be held")
    yield found
    found.leave()
    found.worker.kill()
    expect_no_leftovers(found.site)


def take_over(found: Target, what: str) -> dict[str, dict[str, Any]]:
    """Stop it for so long that another worker ends its sagas; what they are then."""
    stop(found, what)
    found.rescue()
    for row in ALL:
        assert found.ledger(row) == LOST[row], row
    return {row: found.sagas[row].execution.raw for row in ALL}


@pytest.fixture(scope="module", params=["worker", "main"])
def woken(request, site_pair) -> Iterator[tuple[Target, dict[str, dict[str, Any]]]]:
    """Its sagas are over; then the bodies continue, and so does what was stopped.

    The pool's processes run on when the main process alone is stopped: their bodies end before it
    wakes up.
    """
    with target(site_pair) as found:
        before = take_over(found, request.param)
        if request.param == "worker":
            wake(found, "worker")
        for row in ALL:
            found.let_end(row)
            zombie_ended(found, row)
        if request.param == "main":
            wake(found, "main")
        yield found, before


class TestTakenOver:
    """The worker, or its main process, was stopped past its liveness; its sagas continued."""

    @pytest.mark.parametrize("row", ["late", "late compensation", "early compensation"])
    def test_a_late_report_changes_nothing(self, woken, row):
        found, before = woken
        too_late(found, row)
        assert found.sagas[row].execution.raw == before[row]
        assert found.ledger(row) == LOST[row]

    def test_the_late_effect_of_a_step_that_was_compensated_is_compensated_again(self, woken):
        found, _ = woken
        result = found.sagas["early"]
        wait_for(lambda: [n.what for n in result.execution.history] == ["late effect"])
        assert found.ledger("early") == (COMPENSATED, "fcc")
        keys = [line["idempotency_key"] for line in found.site.journal.said(result.id, "began")]
        assert keys[1:] == [f"{result.id}/a/c/0", f"{result.id}/a/c/1"]

    def test_the_worker_continues_to_work(self, woken):
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
    def woken(cls, site_pair):
        with target(site_pair, "held") as found:
            stop(found, "worker")
            found.rescue()
            for row in ALL:
                count = {"late": 2, "early": 2, "late compensation": 4, "early compensation": 4}[
                    row
                ]
                found.site.journal.wait(found.sagas[row].id, "began", count)
            wake(found, "worker")
            for row in ALL:
                found.let_end(row)  # the stopped body is first at the gate
                zombie_ended(found, row)
            yield found

    @pytest.mark.parametrize("row", ["late", "late compensation", "early compensation"])
    def test_it_does_not_end_the_step(self, woken, row):
        if row == "late":  # that its effect is there is noted
            wait_for(lambda: len(woken.sagas[row].execution.steps[0].effect_tokens) == 1)
        else:
            too_late(woken, row)
        step = woken.sagas[row].execution.steps[0]
        assert step.status.value == ("RUNNING" if row == "late" else "COMPENSATING")
        assert step.claim is not None
        assert step.claim.instance != ""
        woken.let_end(row)
        assert woken.ledger(row) == LOST[row]
        assert len(ends(woken, row)) == 2

    def test_a_step_that_was_compensated_meanwhile_is_compensated_again(self, woken):
        result = woken.sagas["early"]
        wait_for(lambda: [n.what for n in result.execution.history] == ["late effect"])
        assert woken.ledger("early") == (COMPENSATED, "fcc")


class TestStoppedChildren:
    """The bodies' processes alone: their worker lives, so the steps stay theirs."""

    @pytest.fixture(scope="class")
    @classmethod
    def woken(cls, site_pair):
        with target(site_pair) as found:
            stop(found, "children")
            found.rescue()
            found.site.pass_time(3 * found.site.settings["saga_heartbeat_ttl"])
            wake(found, "children")
            for row in ALL:
                found.let_end(row)
            yield found

    @pytest.mark.parametrize("row", ALL)
    def test_no_body_is_run_twice(self, woken, row):
        assert woken.ledger(row) == ENDED[row]


class TestStoppedForLessThanItsLiveness:
    """A pause that is over before the worker counts as dead costs nothing."""

    #: Seconds; a busy machine does not add as much to a pause of less than half of them.
    TTL = 12.0

    @pytest.fixture(scope="class")
    @classmethod
    def woken(cls, site_pair):
        with target(site_pair, saga_heartbeat_ttl=cls.TTL) as found:
            found.rescue()
            for _ in range(2):
                newest = alive_until(found)
                wait_for(lambda last=newest: alive_until(found) > last)
                stop(found, "worker")
                found.site.pass_time(cls.TTL / 3)
                wake(found, "worker")
            for row in ALL:
                found.let_end(row)
            yield found

    @pytest.mark.parametrize("row", ALL)
    def test_no_body_is_run_twice(self, woken, row):
        assert woken.ledger(row) == ENDED[row]


def alive_until(found: Target) -> float:
    """The store time until which the worker counts as alive."""
    instance = found.sagas["late"].execution.steps[0].claim.instance
    return float(found.site.client.zscore("saga:instances", instance))
