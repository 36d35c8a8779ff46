"""The failure table, second part: what ends a worker, on every pool, and who goes on."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from celery_saga import Saga, SagaResult
from celery_saga.contrib.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.worker.apps import ways as tasks
from tests.worker.conftest import expect_no_leftovers
from tests.worker.harness import Site, Worker

pytestmark = pytest.mark.worker

POOLS = ["prefork", "threads", "solo", "gevent"]
DONE, UNDONE = "COMPLETED", "COMPENSATED"

ALL = ("late", "early", "late undo", "early undo")

#: What becomes of a saga whose worker was lost: reruns and undos as the task's acks say.
LOST = {
    "late": (DONE, "ff"),
    "early": (UNDONE, "fc"),
    "late undo": (UNDONE, "fcc"),
    "early undo": (UNDONE, "fcc"),
}

#: What becomes of one whose worker waited for its body.
ENDED = {"late": (DONE, "f"), "early": (DONE, "f"), "late undo": (UNDONE, "fc")}

_numbers = itertools.count(1)


@dataclass
class Victim:
    """A worker with a queue of its own, and the sagas of which it runs a step or an undo."""

    site: Site
    pool: str
    queue: str
    worker: Worker
    rescuer: Worker
    sagas: dict[str, SagaResult] = field(default_factory=dict)

    def hold(self, row: str, way: str = "held once") -> SagaResult:
        """Start a saga of step ``a``, which the worker has begun when this returns.

        Args:
            row: ``late`` or ``early`` for the step itself, ``late undo`` or ``early undo`` for its
                undo.
        """
        ack, _, undo = row.partition(" ")
        task = {"late": tasks.late, "early": tasks.early}[ack]
        undo_task = {"late": tasks.undo, "early": tasks.early_undo}[ack]
        ways = {"a/c": way, "b/f": "declines"} if undo else {"a/f": way}
        saga = Saga("victim", app=self.site.app)
        saga.local_step(tasks.late if undo else task, name="a", queue=self.queue).on_failure(
            undo_task if undo else tasks.undo, queue=self.queue
        )
        saga.local_step(tasks.late, name="b", queue=self.queue)
        result = self.sagas[row] = saga.commit().delay(ways=ways)
        self.site.journal.wait(result.id, "began", 3 if undo else 1)
        return result

    def rescue(self) -> None:
        """Let another worker have the queue."""
        self.site.app.control.add_consumer(self.queue, destination=[self.rescuer.name])

    def ledger(self, row: str) -> tuple[str, str]:
        """How the saga ended, and the directions of the bodies of ``a``."""
        result = self.sagas[row]
        status = self.site.settled(result)
        began = self.site.journal.began(result.id)
        return status, "".join(name[2:] for name in began if name.startswith("a/"))

    def gone(self) -> None:
        wait_for(
            lambda: not self.worker.process.alive,
            20,
            description=f"the {self.pool} worker to end: {self.worker.text()[-3000:]}",
        )


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


#: A pool and what its worker runs; solo has room for one body.
Part = tuple[str, Sequence[str]]


def name_of(part: Part) -> str:
    pool, rows = part
    return pool if len(rows) == len(ALL) else f"{pool} {rows[0]}"


@contextmanager
def scene(
    arena: tuple[Site, Worker],
    parts: Sequence[Part],
    act: Callable[[Victim], None],
    way: str = "held once",
    **settings: float,
) -> Iterator[dict[str, Victim]]:
    """Start a worker for each part, let all begin their bodies, and then ``act`` upon each."""
    site, rescuer = arena
    cast = {}
    for part in parts:
        pool, rows = part
        queue = f"victim-{next(_numbers)}"
        options = ["-P", pool, "-c", str(len(rows)), "-Q", queue]
        worker = site.start(*options, app="tests.worker.apps.table", **settings)
        cast[name_of(part)] = Victim(site, pool, queue, worker, rescuer)
    for victim, (_, rows) in zip(cast.values(), parts, strict=True):
        victim.worker.wait_until_ready()
        for row in rows:
            victim.hold(row, way)
    for victim in cast.values():
        act(victim)
    for victim in cast.values():
        victim.gone()
        victim.rescue()
    yield cast
    for victim in cast.values():
        site.app.control.cancel_consumer(victim.queue, destination=[rescuer.name])
    expect_no_leftovers(site)


def kill(victim: Victim) -> None:
    victim.worker.kill()


def quit(victim: Victim) -> None:
    victim.worker.signal(signal.SIGQUIT)


def quit_and_let_end(victim: Victim) -> None:
    victim.worker.signal(signal.SIGQUIT)
    wait_for(lambda: "shutdown" in victim.worker.text().lower())
    for row, result in victim.sagas.items():
        victim.site.journal.open(result.id, "a/c" if "undo" in row else "a/f")


def nothing(victim: Victim) -> None:
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
        ("solo", ["late undo"]),
    )

    @pytest.fixture(scope="class")
    @classmethod
    def cast(cls, arena):
        with scene(arena, cls.PARTS, kill) as cast:
            yield cast

    @parts(*PARTS)
    def test_another_worker_goes_on(self, cast, who, row):
        assert cast[who].ledger(row) == LOST[row]


class TestMainProcessKilled:
    """SIGKILL for the main process alone; its children end with it."""

    PARTS = (("prefork", ALL),)

    @pytest.fixture(scope="class")
    @classmethod
    def cast(cls, arena):
        with scene(arena, cls.PARTS, lambda v: v.worker.signal(signal.SIGKILL)) as cast:
            yield cast

    @parts(*PARTS)
    def test_another_worker_goes_on(self, cast, who, row):
        assert cast[who].ledger(row) == LOST[row]


class TestBodiesThatEndTheirWorker:
    """``os._exit`` where bodies run in the main process, ``SystemExit`` under solo."""

    DIES = (("threads", ["late"]), ("solo", ["early"]), ("gevent", ["late undo"]))
    EXITS = (("solo", ["late"]), ("solo", ["early"]), ("solo", ["late undo"]))
    NO_MEMORY = (("prefork", ["early"]), ("solo", ["late"]))

    @pytest.fixture(scope="class")
    @classmethod
    def died(cls, arena):
        with scene(arena, cls.DIES, nothing, "dies") as cast:
            yield cast

    @parts(*DIES)
    def test_os_exit(self, died, who, row):
        assert died[who].ledger(row) == LOST[row]

    @pytest.fixture(scope="class")
    @classmethod
    def exited(cls, arena):
        with scene(arena, cls.EXITS, nothing, "exits") as cast:
            yield cast

    @parts(*EXITS)
    def test_system_exit(self, exited, who, row):
        assert exited[who].ledger(row) == LOST[row]

    @pytest.fixture(scope="class")
    @classmethod
    def starved(cls, arena):
        with scene(arena, cls.NO_MEMORY, nothing, "out of memory") as cast:
            yield cast

    @parts(*NO_MEMORY)
    def test_out_of_memory(self, starved, who, row):
        """The step has reported before its worker ends: the effect may be there, it is undone."""
        assert starved[who].ledger(row) == (UNDONE, "fc")


class TestColdShutdown:
    """SIGQUIT; the threads pool cannot end its bodies, and waits for them.

    One body a worker under gevent: Celery's handler, which must not block there, fails when it has
    ended the first, and the worker waits for the others.
    """

    PARTS = (
        ("prefork", ALL),
        ("gevent", ["late"]),
        ("gevent", ["early"]),
        ("gevent", ["late undo"]),
        ("solo", ["late"]),
        ("solo", ["early"]),
        ("solo", ["late undo"]),
    )
    THREADS = (("threads", ["late", "early", "late undo"]),)

    @pytest.fixture(scope="class")
    @classmethod
    def cast(cls, arena):
        with scene(arena, cls.PARTS, quit) as cast:
            yield cast

    @parts(*PARTS)
    def test_the_worker_counts_as_lost(self, cast, who, row):
        assert cast[who].ledger(row) == LOST[row]

    @pytest.fixture(scope="class")
    @classmethod
    def threads(cls, arena):
        with scene(arena, cls.THREADS, quit_and_let_end) as cast:
            yield cast

    @parts(*THREADS)
    def test_threads_wait(self, threads, who, row):
        assert threads[who].ledger(row) == ENDED[row]


class TestSoftShutdown:
    """SIGQUIT with ``worker_soft_shutdown_timeout``."""

    IN_TIME = (
        ("prefork", ["late", "early", "late undo"]),
        ("threads", ["late", "early", "late undo"]),
        ("gevent", ["late", "early", "late undo"]),
    )
    OVER_TIME = (("prefork", ALL), ("solo", ["late"]), ("solo", ["early"]))

    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, arena):
        act = quit_and_let_end
        with scene(arena, cls.IN_TIME, act, worker_soft_shutdown_timeout=2) as cast:
            yield cast

    @parts(*IN_TIME)
    def test_bodies_that_end_in_time(self, ended, who, row):
        assert ended[who].ledger(row) == ENDED[row]

    @pytest.fixture(scope="class")
    @classmethod
    def cut_off(cls, arena):
        with scene(arena, cls.OVER_TIME, quit, worker_soft_shutdown_timeout=0.5) as cast:
            yield cast

    @parts(*OVER_TIME)
    def test_bodies_that_do_not(self, cut_off, who, row):
        assert cut_off[who].ledger(row) == LOST[row]


class TestRetryOnWorkerLost:
    """Another worker takes the message: the one that lost its child does not give the step up."""

    @pytest.fixture(scope="class")
    @classmethod
    def sagas(cls, arena):
        site, rescuer = arena
        queue = f"victim-{next(_numbers)}"
        worker = site.worker("-Q", queue, app="tests.worker.apps.table")
        found = {}
        for name in ("late_resent", "early_resent"):
            saga = Saga("resent", app=site.app)
            step = saga.local_step(getattr(tasks, name), name="a", queue=queue)
            step.on_failure(tasks.undo, queue=queue)
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
    def test_celerys_countdown_runs_there(self, arena, sagas, name):
        site, result = arena[0], sagas[name]
        assert site.settled(result) == DONE
        assert site.journal.began(result.id) == ["a/f", "a/f"]
        assert (result.execution.steps[0].lost, result.execution.steps[0].epoch) == (0, 1)
