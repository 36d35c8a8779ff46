"""``celery -A ... saga <verb>`` as a process: an operator finds a stuck saga and repairs it."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_saga import Saga, SagaResult
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late
from tests.worker.doctoring import Ran
from tests.worker.harness import Journal, Site

pytestmark = pytest.mark.worker

APP = "tests.worker.apps.site"


@pytest.fixture(scope="module")
def office(valkey: EmbeddedValkey, journal: Journal, folder: Path) -> Iterator[Site]:
    """One worker for all tests here."""
    site = Site(valkey.url(14), journal, folder)
    try:
        site.worker()
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def orders(office: Site) -> Saga:
    saga = Saga("orders", app=office.app)
    saga.local_step(late, name="a").on_failure(compensation, max_attempts=1)
    saga.local_step(late, name="b", read_only=True)
    return saga.commit()


def run(site: Site, verb: str, *arguments: str) -> Ran:
    return Ran(APP, *arguments, env=site.environment(), verb=verb)


def stuck(site: Site, saga: Saga) -> SagaResult:
    result = saga.delay(fail=["b/f", "a/c"], card_token="tok_4242")
    assert site.settled(result) == "STUCK"
    return result


def statuses(ran: Ran) -> list[tuple[str, str]]:
    return [(each["id"], each["status"]) for each in ran.document["sagas"]]


class TestRepair:
    def test_what_show_proposes_repairs_it(self, office: Site, orders: Saga) -> None:
        result = stuck(office, orders)

        shown = run(office, "show", result.id)

        assert (shown.code, shown.err) == (0, "")
        assert "its compensation failed: builtins.ValueError: a/c fails" in shown.out
        assert "tok_4242" not in shown.out
        (proposed,) = [line for line in shown.out.splitlines() if " saga retry " in line]
        words = proposed.partition("#")[0].split()
        assert words == ["celery", "-A", APP, "saga", "retry", result.id]

        ran = run(office, *words[4:], "--set", 'fail=["b/f"]', "--by", "ann")

        assert (ran.code, ran.err) == (0, "")
        # A fast worker has compensated it before the command asks for the status.
        assert ran.out in [f"{result.id}: {each}\n" for each in ("COMPENSATING", "COMPENSATED")]
        assert office.settled(result) == "COMPENSATED"
        history = [(note.what, note.by) for note in result.execution.history]
        assert ("retry", "ann") in history

    @pytest.mark.parametrize(
        ("verb", "options", "status"),
        [
            ("skip", (), "COMPENSATED"),
            ("resolve", ("--as", "completed"), "COMPLETED"),
            ("resolve", ("--as", "COMPENSATED"), "COMPENSATED"),
        ],
    )
    def test_by_hand(
        self, office: Site, orders: Saga, verb: str, options: tuple[str, ...], status: str
    ) -> None:
        results = [stuck(office, orders) for _ in range(2)]

        ran = run(office, verb, *(each.id for each in results), *options, "--json")

        assert ran.code == 0, ran.err
        assert statuses(ran) == [(each.id, status) for each in results]
        by = [note.by for note in results[0].execution.history if note.what == verb]
        assert by == [f"{getpass.getuser()}@{socket.gethostname()}"]


class TestOnItsWay:
    def test_pause_and_cancel(self, office: Site, orders: Saga) -> None:
        result = orders.delay(hold=["a/f"])
        office.journal.wait(result.id, "began", 1)

        assert run(office, "pause", result.id).out == f"{result.id}: PAUSED\n"
        office.journal.open(result.id, "a/f")
        wait_for(lambda: result.progress["a"] == "SUCCEEDED")
        assert result.progress["b"] == "PENDING"

        assert run(office, "cancel", result.id, "--reason", "wrong size").code == 0
        assert office.settled(result) == "COMPENSATED"

    def test_pause_and_resume(self, office: Site, orders: Saga) -> None:
        result = orders.delay(hold=["a/f"])
        office.journal.wait(result.id, "began", 1)
        assert run(office, "pause", result.id).code == 0
        office.journal.open(result.id, "a/f")
        wait_for(lambda: result.progress["a"] == "SUCCEEDED")

        assert run(office, "resume", result.id).code == 0
        assert office.settled(result) == "COMPLETED"


class TestList:
    @pytest.fixture(autouse=True)
    def some(self, office: Site, orders: Saga) -> Any:
        self.stuck = stuck(office, orders)
        other = Saga("others", app=office.app)
        other.local_step(late, name="a", read_only=True)
        self.done = other.commit().delay()
        assert office.settled(self.done) == "COMPLETED"
        yield
        run(office, "resolve", self.stuck.id, "--as", "COMPENSATED")

    def test_as_a_table(self, office: Site) -> None:
        ran = run(office, "list", "--status", "stuck")

        assert (ran.code, ran.err) == (0, "")
        head, row = ran.out.splitlines()
        assert head.split() == ["ID", "SAGA", "STATUS", "STEP", "CHANGED", "CAUSE"]
        assert row.split()[:4] == [self.stuck.id, "orders", "STUCK", "a"]

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            ((), ["done", "stuck"]),
            (("--saga", "others"), ["done"]),
            (("--status", "STUCK", "--status", "COMPLETED"), ["done", "stuck"]),
            (("--limit", "1"), ["done"]),
            (("--older-than", "15m"), []),
        ],
        ids=str,
    )
    def test_as_json(self, office: Site, options: tuple[str, ...], found: list[str]) -> None:
        ran = run(office, "list", "--json", *options)

        mine = {self.stuck.id: "stuck", self.done.id: "done"}
        seen = [mine[each["id"]] for each in ran.document["sagas"] if each["id"] in mine]
        assert (ran.code, seen) == (0, found)


class TestRefused:
    def test_one_of_several(self, office: Site, orders: Saga) -> None:
        result = stuck(office, orders)

        ran = run(office, "skip", "nothing", result.id)

        assert ran.code == 1
        assert ran.out == f"{result.id}: COMPENSATED\n"
        assert "nothing: " in ran.err

    def test_a_verb_that_does_not_fit(self, office: Site, orders: Saga) -> None:
        result = stuck(office, orders)

        ran = run(office, "resume", result.id, "--json")

        (each,) = ran.document["sagas"]
        assert (ran.code, each["status"]) == (1, "")
        assert "is STUCK: resume does not apply" in each["error"]
        assert run(office, "skip", result.id).code == 0

    @pytest.mark.parametrize(
        ("verb", "arguments", "words"),
        [
            ("retry", ("x", "--set", "card=4242-"), "expected KEY=JSON"),
            ("list", ("--older-than", "soon"), "expected an age"),
            ("resolve", ("x",), "--as"),
            ("skip", (), "ID..."),
        ],
    )
    def test_a_wrong_call(
        self, office: Site, verb: str, arguments: tuple[str, ...], words: str
    ) -> None:
        ran = run(office, verb, *arguments)

        assert (ran.code, ran.out) == (2, "")
        assert words in ran.err

    def test_a_saga_that_is_not_there(self, office: Site) -> None:
        ran = run(office, "show", "nothing")

        assert (ran.code, ran.out) == (1, "")
        assert "nothing" in ran.err
