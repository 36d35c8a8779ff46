"""The failure table, second part: what ends a worker, on every pool, and what follows."""

from __future__ import annotations

import functools
import itertools
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil
import pytest

from celery_saga import Saga
from tests.helpers import has_exited, wait_for
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
    target,
)

pytestmark = pytest.mark.worker

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def site_pair(journal, folder) -> Iterator[SitePair]:
    with site_pair_of(journal, folder) as found:
        yield found


#: A pool and what its worker runs; solo has room for one body.
Part = tuple[str, Sequence[str]]


def name_of(part: Part) -> str:
    pool, rows = part
    return pool if len(rows) == len(ALL) else f"{pool} {rows[0]}"


@contextmanager
def _scene(
    site_pair: SitePair,
    pools: Sequence[str],
    parts: Sequence[Part],
    act: Callable[[Target], None],
    way: str = "held once",
    **settings: float,
) -> Iterator[dict[str, Target]]:
    """Start a worker for each part, let all begin their bodies, and then ``act`` upon each.

    Parts of pools that are not wanted are left out.
    """
    cast = {}
    parts = [part for part in parts if part[0] in pools]
    for part in parts:
        pool, rows = part
        cast[name_of(part)] = target(site_pair, pool, len(rows), **settings)
    for found, (_, rows) in zip(cast.values(), parts, strict=True):
        found.worker.wait_until_ready()
        for row in rows:
            found.hold(row, way)
    for found in cast.values():
        act(found)
    for found in cast.values():
        found.wait_until_lost()
        found.rescue()
    yield cast
    for found in cast.values():
        found.leave()
    expect_no_leftovers(site_pair[0])


@pytest.fixture(scope="module")
def scene(site_pair, pools):
    return functools.partial(_scene, site_pair, pools)


def kill(found: Target) -> None:
    found.worker.kill()


def quit(found: Target) -> None:
    found.worker.signal(signal.SIGQUIT)


def quit_and_let_end(found: Target) -> None:
    found.worker.signal(signal.SIGQUIT)
    wait_for(lambda: "shutdown" in found.worker.text().lower())
    for row in found.sagas:
        found.let_end(row)


def quit_and_let_end_late(found: Target) -> None:
    """When the time is over that a soft shutdown gives."""
    found.worker.signal(signal.SIGQUIT)
    wait_for(lambda: "shutdown" in found.worker.text().lower())
    found.site.pass_time(1.5)
    assert found.worker.process.alive
    for row in found.sagas:
        found.let_end(row)


def nothing(found: Target) -> None:
    """The body itself is the end of the worker."""


def parts(*found: Part):
    """Parametrize a test by the rows of these parts."""
    rows = [(name_of(part), row) for part in found for row in part[1]]
    return pytest.mark.parametrize(("who", "row"), rows, ids=lambda text: text)


class TestKilled:
    """SIGKILL for the whole worker, in every pool."""

    PARTS = (
        ("prefork", ALL),
        ("threads", ALL),
        ("gevent", ALL),
        ("solo", ["early"]),  # late: test_pools.py
        ("solo", ["late compensation"]),
    )

    @pytest.fixture(scope="class")
    @classmethod
    def cast(cls, scene):
        with scene(cls.PARTS, kill) as cast:
            yield cast

    @parts(*PARTS)
    def test_another_worker_continues(self, cast, who, row):
        assert cast[who].ledger(row) == LOST[row]


class TestMainProcessKilled:
    """SIGKILL for the main process alone; its children end with it, by themselves."""

    #: Starts a worker and outlives it: the process that supervises ours would end the children of
    #: a process that has ended.
    KEEPER = (
        sys.executable,
        "-c",
        "import signal, subprocess, sys; subprocess.run(sys.argv[1:]); signal.pause()",
    )

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, site_pair):
        found = target(site_pair, keeper=cls.KEEPER)
        hold_all([found])
        (main,) = psutil.Process(found.worker.process.pid).children()
        main.kill()
        for line in found.began.values():
            wait_for(lambda pid=line["pid"]: has_exited(pid), description="its children to end")
        assert found.worker.process.alive
        found.rescue()
        yield found
        found.leave()
        found.worker.kill()
        expect_no_leftovers(site_pair[0])

    @pytest.mark.parametrize("row", ALL)
    def test_another_worker_continues(self, found, row):
        assert found.ledger(row) == LOST[row]


class TestBodiesThatEndTheirWorker:
    """``os._exit`` where bodies run in the main process, ``SystemExit`` under solo."""

    DIES = (("threads", ["late"]), ("solo", ["early"]), ("gevent", ["late compensation"]))
    EXITS = (("solo", ["late"]), ("solo", ["early"]), ("solo", ["late compensation"]))
    NO_MEMORY = (("prefork", ["early"]), ("solo", ["late"]))

    @pytest.fixture(scope="class")
    @classmethod
    def died(cls, scene):
        with scene(cls.DIES, nothing, "dies") as cast:
            yield cast

    @parts(*DIES)
    def test_os_exit(self, died, who, row):
        assert died[who].ledger(row) == LOST[row]

    @pytest.fixture(scope="class")
    @classmethod
    def exited(cls, scene):
        with scene(cls.EXITS, nothing, "exits") as cast:
            yield cast

    @parts(*EXITS)
    def test_system_exit(self, exited, who, row):
        assert exited[who].ledger(row) == LOST[row]

    @pytest.fixture(scope="class")
    @classmethod
    def starved(cls, scene):
        with scene(cls.NO_MEMORY, nothing, "out of memory") as cast:
            yield cast

    @parts(*NO_MEMORY)
    def test_out_of_memory(self, starved, who, row):
        """The step has reported before its worker ends: it may have taken effect."""
        assert starved[who].ledger(row) == (COMPENSATED, "fc")


class TestColdShutdown:
    """SIGQUIT; the threads pool cannot end its bodies, and waits for them.

    One body a worker under gevent: Celery's handler, which must not block there, fails when it has
    ended the first, and the worker waits for the others.
    """

    PARTS = (
        ("prefork", ALL),
        ("gevent", ["late"]),
        ("gevent", ["early"]),
        ("gevent", ["late compensation"]),
        ("solo", ["late"]),
        ("solo", ["early"]),
        ("solo", ["late compensation"]),
    )
    THREADS = (("threads", ["late", "early", "late compensation"]),)

    @pytest.fixture(scope="class")
    @classmethod
    def cast(cls, scene):
        with scene(cls.PARTS, quit) as cast:
            yield cast

    @parts(*PARTS)
    def test_the_worker_counts_as_lost(self, cast, who, row):
        assert cast[who].ledger(row) == LOST[row]

    @pytest.fixture(scope="class")
    @classmethod
    def threads(cls, scene):
        with scene(cls.THREADS, quit_and_let_end) as cast:
            yield cast

    @parts(*THREADS)
    def test_threads_wait(self, threads, who, row):
        assert threads[who].ledger(row) == ENDED[row]


class TestSoftShutdown:
    """SIGQUIT with ``worker_soft_shutdown_timeout``."""

    IN_TIME = (
        ("prefork", ["late", "early", "late compensation"]),
        ("threads", ["late", "early", "late compensation"]),
        ("gevent", ["late", "early", "late compensation"]),
    )
    OVER_TIME = (("prefork", ALL), ("solo", ["late"]), ("solo", ["early"]))
    NOT_CUT_OFF = (
        ("threads", ["late", "early", "late compensation"]),
        ("gevent", ["late", "early", "late compensation"]),
    )

    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, scene):
        act = quit_and_let_end
        with scene(cls.IN_TIME, act, worker_soft_shutdown_timeout=5) as cast:
            yield cast

    @parts(*IN_TIME)
    def test_bodies_that_end_in_time(self, ended, who, row):
        assert ended[who].ledger(row) == ENDED[row]

    @pytest.fixture(scope="class")
    @classmethod
    def cut_off(cls, scene):
        with scene(cls.OVER_TIME, quit, worker_soft_shutdown_timeout=0.5) as cast:
            yield cast

    @parts(*OVER_TIME)
    def test_bodies_that_do_not(self, cut_off, who, row):
        assert cut_off[who].ledger(row) == LOST[row]

    @pytest.fixture(scope="class")
    @classmethod
    def waited_for(cls, scene):
        act, limit = quit_and_let_end_late, {"worker_soft_shutdown_timeout": 0.5}
        with scene(cls.NOT_CUT_OFF, act, **limit) as cast:
            yield cast

    @parts(*NOT_CUT_OFF)
    def test_bodies_that_celery_cannot_end(self, waited_for, who, row):
        assert waited_for[who].ledger(row) == ENDED[row]


class TestRetryOnWorkerLost:
    """Another worker takes the message: the one that lost its child does not give the step up."""

    @pytest.fixture(scope="class")
    @classmethod
    def sagas(cls, site_pair):
        site, rescuer = site_pair
        queue = f"resent-{next(_numbers)}"
        # Its main process may be slow to send the message, which its heartbeat must not miss.
        calm = {"saga_heartbeat": 1.0, "saga_heartbeat_ttl": 6.0}
        worker = site.worker("-Q", queue, app="tests.worker.apps.table", **calm)
        found = {}
        for name in ("late_resent", "early_resent"):
            saga = Saga("resent", app=site.app)
            step = saga.local_step(getattr(tasks, name), name="a", queue=queue)
            step.on_failure(tasks.compensation, queue=queue)
            found[name] = saga.commit().delay(ways={"a/f": "held once"})
        lines = [site.journal.wait(result.id, "began") for result in found.values()]
        site.app.control.cancel_consumer(queue, destination=[worker.name], reply=True, timeout=10)
        site.app.control.add_consumer(queue, destination=[rescuer.name], reply=True, timeout=10)
        for line in lines:
            site.kill_child(line)
        yield found
        worker.kill()
        expect_no_leftovers(site)

    @pytest.mark.parametrize("name", ["late_resent", "early_resent"])
    def test_celerys_countdown_runs_there(self, site_pair, sagas, name):
        site, result = site_pair[0], sagas[name]
        assert site.settled(result) == DONE
        assert site.journal.began(result.id) == ["a/f", "a/f"]
        assert (result.execution.steps[0].lost, result.execution.steps[0].epoch) == (0, 1)
