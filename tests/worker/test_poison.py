"""Steps that kill their process, or their worker, each time: they end, and others continue."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import pytest

from celery_saga import Saga, SagaResult
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.worker.apps import bodies as tasks
from tests.worker.harness import Site, Worker
from tests.worker.stage import expect_no_leftovers

# Later reruns are some seconds apart, and workers are started anew meanwhile.
pytestmark = [pytest.mark.worker, pytest.mark.timeout(240)]

DONE, COMPENSATED, STUCK = "COMPLETED", "COMPENSATED", "STUCK"


@dataclass(frozen=True)
class Row:
    """A poisonous step ``b`` between ``a`` and ``c``, and what becomes of the saga.

    Args:
        task: of the step.
        at: which body of it is the poison.
        status: in which the saga settles.
        bodies: all that begin, in order; steps as letters, capital ones compensation.
        pivot: the step that is one.
    """

    task: str
    at: str
    status: str
    bodies: str
    pivot: str = ""

    def start(self, site: Site, way: str) -> SagaResult:
        saga = Saga("poison", app=site.app)
        for name in "abc":
            task = getattr(tasks, self.task) if name == "b" else tasks.late
            # The steps beside it have a worker of their own, lest another's poison kills them.
            where = {} if name == "b" else {"queue": "safe"}
            step = saga.local_step(task, name=name, pivot=name == self.pivot, **where)
            if not self.pivot or name < self.pivot:
                step.on_failure(tasks.compensation, **where)
        ways = {self.at: way}
        if self.at == "b/c":
            ways["c/f"] = "declines"
        return saga.commit().delay(ways=ways)


#: ``saga_max_redeliveries`` of these tests: three bodies, the last one held back for a while.
RERUNS = 2

ROWS = {
    "late": Row("late", "b/f", COMPENSATED, "abbbBA"),
    "early": Row("early", "b/f", COMPENSATED, "abBA"),
    "requeued by the broker": Row("requeued", "b/f", COMPENSATED, "abbbBA"),
    "before the body begins": Row("stillborn", "b/f", COMPENSATED, "aA"),
    "compensation": Row("late", "b/c", STUCK, "abcBBBA"),
    "pivot": Row("early", "b/f", STUCK, "abbb", pivot="b"),
    "after the pivot": Row("early", "b/f", STUCK, "abbb", pivot="a"),
}


def bodies(site: Site, result: SagaResult) -> str:
    began = site.journal.began(result.id)
    return "".join(name[0].upper() if name.endswith("/c") else name[0] for name in began)


def others(text: str) -> str:
    """The bodies of the other steps, without those that were run again."""
    return "".join(letter for letter, _ in itertools.groupby(text) if letter not in "bB")


@dataclass
class Fleet:
    """Workers that are started anew when they have ended, and harmless sagas beside the poison."""

    site: Site
    size: int
    harmless: list[SagaResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        saga = Saga("harmless", app=self.site.app)
        for name in "abc":
            saga.local_step(tasks.late, name=name).on_failure(tasks.compensation)
        self._saga = saga.commit()
        self._safe = self._start("-Q", "safe")
        for worker in [self._safe, *(self._start() for _ in range(self.size))]:
            worker.wait_until_ready()

    def _start(self, *options: str) -> Worker:
        return self.site.start("-c", "2", *options, app="tests.worker.apps.table")

    def until_settled(self, results: Collection[SagaResult], follow: bool = False) -> None:
        """Look after the workers until all are settled; ``follow``: harmless sagas meanwhile."""
        looks = itertools.count()

        def over() -> bool:
            living = [worker for worker in self.site.workers if worker.process.alive]
            assert self._safe in living
            for _ in range(1 + self.size - len(living)):
                self._start()
            if follow and next(looks) % 10 == 0:
                self.harmless.append(self._saga.delay())
            return all(result.ready() for result in results)

        wait_for(over, 120, interval=0.05, description="all sagas to settle")


@pytest.fixture(scope="module", params=["kills its process", "kills its worker"])
def poisoned(request, journal, folder) -> Iterator[tuple[Fleet, dict[str, SagaResult], str]]:
    """All rows at once, until each of them has come to its end."""
    with EmbeddedValkey() as server:
        site = Site(server.url(), journal, folder)
        site.app.conf.saga_max_redeliveries = RERUNS
        try:
            fleet = Fleet(site, 3)
            results = {name: row.start(site, request.param) for name, row in ROWS.items()}
            # One that is harmless may lose a worker to the poison of each of them.
            site.app.conf.saga_max_redeliveries = 10 * RERUNS
            fleet.until_settled(results.values(), follow=True)
            fleet.until_settled(fleet.harmless)
            yield fleet, results, request.param
            expect_no_leftovers(site)
        finally:
            site.close()


@pytest.mark.parametrize("name", ROWS)
def test_it_comes_to_an_end(poisoned, name):
    fleet, results, way = poisoned
    row, found = ROWS[name], bodies(fleet.site, results[name])
    assert results[name].status == row.status
    if way == "kills its process":
        assert found == row.bodies
        if row.task == "stillborn":  # its deaths left no line
            assert results[name].execution.steps[1].lost == 1 + RERUNS
    else:  # it may share a worker with another one's poison, and be lost before it begins
        assert others(found) == others(row.bodies)
        assert max(map(found.count, "bB")) <= 1 + RERUNS


def test_other_sagas_continue(poisoned):
    fleet, _, _ = poisoned
    assert {result.status.value for result in fleet.harmless} == {DONE}
    assert len(fleet.harmless) > 5
