"""The barrier on real workers: killed after a commit, and stopped until a compensation."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from celery_saga.contrib.barrier import create_table
from tests.databases import Postgres
from tests.helpers import wait_for
from tests.worker.apps.barred_steps import (
    put_back,
    refuse,
    take,
    take_at_most_once,
    take_twice,
    transaction,
)
from tests.worker.apps.steps import late

pytestmark = pytest.mark.worker

EFFECTS = "CREATE TABLE effects (saga_id VARCHAR(64), amount INTEGER)"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if Postgres.program is None:
        pytest.skip("PostgreSQL is not installed here")
    server = Postgres(fsync="off")
    try:
        with server.connect() as db:
            db.execute(create_table("postgresql"))
            db.execute(EFFECTS)
        yield server
    finally:
        server.close()


class Shop:
    """A site with a database behind the barrier."""

    def __init__(self, site: Any) -> None:
        self.site, self.journal = site, site.journal

    def worker(self, *options: str) -> Any:
        env = {"SAGA_TEST_BARRIER": os.environ["SAGA_TEST_BARRIER"]}
        return self.site.worker(*options, app="tests.worker.apps.barred", env=env)

    def amounts(self, result: Any) -> list[int]:
        query = f"SELECT amount FROM effects WHERE saga_id = '{result.id}'"
        with transaction() as db:
            return [row[0] for row in db.execute(query).fetchall()]

    def results(self, result: Any) -> list[tuple[str, bool, Any]]:
        """Direction, whether it was first, and the result, of each body that committed."""
        return [
            (line["direction"], line["first"], line["result"])
            for line in self.journal.said(result.id, "committed")
        ]


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request, site, tmp_path, monkeypatch) -> Shop:
    where = str(tmp_path / "shop.sqlite")
    if request.param == "postgres":
        where = request.getfixturevalue("postgres").conninfo
    monkeypatch.setenv("SAGA_TEST_BARRIER", where)
    if request.param == "sqlite":
        with transaction() as db:
            db.execute(create_table("sqlite"))
            db.execute(EFFECTS)
    return Shop(site)


class TestKilled:
    def test_between_commit_and_report(self, shop):
        shop.worker()
        saga = shop.site.saga(("a", take, put_back), ("b", late))
        result = saga.delay(hold=["a/f/after"])
        shop.site.kill_child(shop.journal.wait(result.id, "waits"))

        shop.journal.wait(result.id, "waits", 2)
        shop.journal.open(result.id, "a/f/after")

        assert shop.site.settled(result) == "COMPLETED"
        assert shop.amounts(result) == [1]
        (_, first, kept), (_, second, given) = shop.results(result)
        assert (first, second) == (True, False)
        assert kept == given
        assert result.context["number"] == kept["number"]

    def test_the_same_of_a_step_that_may_run_once_only(self, shop):
        """Its compensation reads from the database what was never reported."""
        shop.worker()
        saga = shop.site.saga(("a", take_at_most_once, put_back), ("b", late))
        result = saga.delay(hold=["a/f/after"])
        shop.site.kill_child(shop.journal.wait(result.id, "waits"))

        assert shop.site.settled(result) == "COMPENSATED"
        assert shop.amounts(result) == [1, -1]
        ((_, _, kept), _) = shop.results(result)
        assert shop.journal.said(result.id, "first")[1]["forward_result"] == kept

    def test_before_the_commit(self, shop):
        """There is nothing to compensate."""
        shop.worker()
        saga = shop.site.saga(("a", take_at_most_once, put_back), ("b", late))
        result = saga.delay(hold=["a/f/inside"])
        shop.site.kill_child(shop.journal.wait(result.id, "waits"))

        assert shop.site.settled(result) == "COMPENSATED"
        assert shop.amounts(result) == []
        assert shop.results(result) == [("c", False, None)]

    def test_a_compensation_between_commit_and_report(self, shop):
        shop.worker()
        saga = shop.site.saga(("a", take, put_back), ("b", refuse))
        result = saga.delay(hold=["a/c/after"])
        shop.site.kill_child(shop.journal.wait(result.id, "waits"))

        shop.journal.wait(result.id, "waits", 2)
        shop.journal.open(result.id, "a/c/after")

        assert shop.site.settled(result) == "COMPENSATED"
        assert shop.amounts(result) == [1, -1]
        assert [first for _, first, _ in shop.results(result)] == [True, True, False]


class TestZombie:
    """A worker is stopped until the others count it as dead, and then continues."""

    def stop(self, shop: Shop, hold: str) -> tuple[Any, Any]:
        worker = shop.worker("-c", "1")
        saga = shop.site.saga(("a", take_at_most_once, put_back), ("b", late))
        result = saga.delay(hold=[hold])
        shop.journal.wait(result.id, "waits")
        os.killpg(worker.process.pid, signal.SIGSTOP)
        shop.worker("-c", "1")
        assert shop.site.settled(result) == "COMPENSATED"
        return worker, result

    def resume(self, shop: Shop, worker: Any, result: Any, gate: str) -> None:
        os.killpg(worker.process.pid, signal.SIGCONT)
        shop.journal.open(result.id, gate)

    def test_a_late_body_has_no_effect_after_its_compensation(self, shop):
        worker, result = self.stop(shop, "a/f/before")
        assert shop.results(result) == [("c", False, None)]
        revision = result.execution.revision

        self.resume(shop, worker, result, "a/f/before")
        shop.journal.wait(result.id, "blocked")
        wait_for(lambda: "was compensated before it ran" in worker.text())

        assert shop.amounts(result) == []
        assert result.execution.revision == revision, "it was reported as an effect"

    def test_what_is_reported_late_is_compensated_once(self, shop):
        """The engine compensates it in a second round; the database has the first one."""
        worker, result = self.stop(shop, "a/f/after")
        assert shop.amounts(result) == [1, -1]

        self.resume(shop, worker, result, "a/f/after")
        line = shop.journal.wait(result.id, "committed", 3)

        assert (line["idempotency_key"], line["first"]) == (f"{result.id}/a/c/1", False)
        assert shop.site.settled(result) == "COMPENSATED"
        assert shop.amounts(result) == [1, -1]


def test_a_step_that_goes_through_it_twice_is_compensated(site, tmp_path, monkeypatch):
    """That is a mistake, but the first part is committed, and the engine gets a report."""
    monkeypatch.setenv("SAGA_TEST_BARRIER", str(tmp_path / "shop.sqlite"))
    with transaction() as db:
        db.execute(create_table("sqlite"))
        db.execute(EFFECTS)
    shop = Shop(site)
    shop.worker()
    result = site.saga(("a", take_twice, put_back)).delay()

    assert site.settled(result) == "COMPENSATED"
    assert "make two steps of it" in str(result.execution.error)
    assert shop.amounts(result) == [1, -1]
    assert [line["step"] for line in shop.journal.said(result.id, "began")] == ["a", "a", "a"]
