"""The failure table, third part: an unavailable store or broker, or lost answers of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from celery_saga import Saga, SagaResult
from celery_saga.runtime import runtime_of
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.tiers import POOLS
from tests.worker.apps import bodies as tasks
from tests.worker.harness import Journal, Site, Worker
from tests.worker.proxy import Proxy

pytestmark = pytest.mark.worker

DONE, COMPENSATED = "COMPLETED", "COMPENSATED"

#: Seconds of ``saga_store_timeout`` where the store is a server of its own.
STORE_TIMEOUT = 6.0


@dataclass
class Servers:
    """Broker and store on a server each; every pool has a worker with a queue of its own."""

    site: Site
    store: EmbeddedValkey
    broker: EmbeddedValkey
    proxy: Proxy
    workers: dict[str, Worker]

    @property
    def journal(self) -> Journal:
        return self.site.journal

    def start(self, pool: str, task=tasks.late, times=None, **ways: str) -> SagaResult:
        """A saga of ``a`` and ``b``; ``ways`` says what ``af``, ``ac`` and ``bf`` do."""
        saga = Saga("servers", app=self.site.app)
        saga.local_step(task, name="a", queue=pool).on_failure(tasks.compensation, queue=pool)
        saga.local_step(tasks.late, name="b", queue=pool)
        said = {f"{key[0]}/{key[1]}": way for key, way in ways.items()}
        return saga.commit().apply_async({"ways": said}, **(times or {}))

    def run_worker(self, pool: str) -> None:
        through = self.store.url().replace(f":{self.store.port}/", f":{self.proxy.port}/")
        options = ("-P", pool, "-c", "4", "-Q", pool)
        settings: dict[str, Any] = {"saga_store_url": through}
        if self.broker is not self.store:
            settings["saga_store_timeout"] = STORE_TIMEOUT
        self.workers[pool] = self.site.start(*options, app="tests.worker.apps.table", **settings)

    def supervise_until(self, results: list[SagaResult]) -> None:
        """Start workers anew that end by themselves, as a supervisor does.

        With messages unacknowledged, those of Celery 5.7 end when a Redis broker becomes
        unavailable, except under solo and gevent.
        """

        def over() -> bool:
            for pool, worker in list(self.workers.items()):
                if not worker.process.alive:
                    self.run_worker(pool)
            return all(result.ready() for result in results)

        wait_for(over, 60, interval=0.1)

    def cast(self) -> list[tuple[str, str]]:
        """The rows of the workers."""
        return [(pool, row) for pool, row in CAST if pool in self.workers]

    def now(self) -> float:
        """The store's time."""
        return runtime_of(self.site.app).store.now()

    def ledger(self, result: SagaResult) -> tuple[str, list[str]]:
        status = self.site.settled(result)
        return status, self.journal.began(result.id)


@contextmanager
def running(journal: Journal, folder: Path, pools: list[str], apart: bool) -> Iterator[Servers]:
    """Servers, and workers that reach the store through a proxy; the test itself does not."""
    with ExitStack() as stack:
        store = stack.enter_context(EmbeddedValkey(append_only=True))
        broker = stack.enter_context(EmbeddedValkey(append_only=True)) if apart else store
        proxy = Proxy(store.port)
        stack.callback(proxy.close)
        site = Site(broker.url(), journal, folder)
        stack.callback(site.close)
        site.app.conf.saga_store_url = store.url()
        site.settings["saga_heartbeat_ttl"] = 6.0  # none is to be taken for dead after an outage
        found = Servers(site, store, broker, proxy, {})
        for pool in pools:
            found.run_worker(pool)
        for worker in found.workers.values():
            worker.wait_until_ready()
        yield found


@pytest.fixture(scope="module")
def servers(journal, folder, pools) -> Iterator[Servers]:
    """Broker and store apart: checkpoint and message are two writes."""
    with running(journal, folder, pools, apart=True) as found:
        yield found


@pytest.fixture(scope="module")
def one_server(journal, folder, pools) -> Iterator[Servers]:
    """Broker and store on one server: checkpoint and message are one write."""
    with running(journal, folder, pools, apart=False) as found:
        yield found


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("where", ["servers", "one_server"])
def test_lost_answers_of_a_claim_and_of_a_report(request, where, pool):
    """Claim and report of ``a``, ``b`` and the compensation: six answers, each lost in one saga."""
    found = request.getfixturevalue(where)
    found.site.settled(found.start(pool))  # the scripts are known from here on
    before = found.proxy.lost
    results = []
    for number in range(1, 7):
        saga_id = f"{where}-{pool}-{number}"
        found.proxy.arm(f"saga:execution:{saga_id}", number)
        results.append(found.start(pool, times={"saga_id": saga_id}, bf="declines"))

    for result in results:
        assert found.ledger(result) == (COMPENSATED, ["a/f", "b/f", "a/c"])
    # The last answer was lost in a thread of this process, which may not have counted it yet.
    wait_for(lambda: found.proxy.lost >= before + 6, description="all answers lost")
    assert found.proxy.lost == before + 6


#: Steps and compensations whose bodies end while the store is unavailable.
BODIES = {
    "late": (tasks.late, {"af": "held once"}),
    "early": (tasks.early, {"af": "held once"}),
    "late compensation": (tasks.late, {"ac": "held once", "bf": "declines"}),
}
#: The solo pool has room for one.
CAST = [(pool, row) for pool in POOLS for row in BODIES if pool != "solo" or row == "late"]


class TestStoreUnavailable:
    """The store ends under running bodies, and comes back with the same data."""

    @staticmethod
    def run(
        servers: Servers, outage: Callable[[dict[tuple[str, str], SagaResult]], None]
    ) -> dict[tuple[str, str], SagaResult]:
        """Let the bodies end while the store is unavailable, and restore it after ``outage``."""
        results = {}
        for pool, row in servers.cast():
            task, ways = BODIES[row]
            results[pool, row] = servers.start(pool, task, **ways)
        for (_, row), result in results.items():
            servers.journal.wait(result.id, "began", 3 if "compensation" in row else 1)
        servers.store.kill()
        for (_, row), result in results.items():
            servers.journal.open(result.id, "a/c" if "compensation" in row else "a/f")
        for (_, row), result in results.items():
            servers.journal.wait(result.id, "ended", 2 if "compensation" in row else 1)
        outage(results)
        servers.store.restart()
        return results

    @pytest.fixture(scope="class")
    @classmethod
    def short(cls, servers):
        return cls.run(servers, lambda results: None)

    @pytest.mark.parametrize(("pool", "row"), CAST)
    def test_for_less_than_the_timeout(self, servers, short, pool, row):
        result = short[pool, row]
        compensated = (COMPENSATED, ["a/f", "b/f", "a/c"])
        assert servers.ledger(result) == (
            compensated if "compensation" in row else (DONE, ["a/f", "b/f"])
        )
        assert {step.lost for step in result.execution.steps} == {0}

    @pytest.fixture(scope="class")
    @classmethod
    def long(cls, servers):
        def gave_up(worker: Worker, result: SagaResult) -> bool:
            lines = [line for line in worker.text().splitlines() if f"[{result.id}~" in line]
            return any("reject requeue=True" in line for line in lines)

        def all_gave_up(results: dict[tuple[str, str], SagaResult]) -> None:
            for (pool, _), result in results.items():
                worker = servers.workers[pool]
                wait_for(lambda w=worker, r=result: gave_up(w, r), 60)

        return cls.run(servers, all_gave_up)

    @pytest.mark.parametrize(("pool", "row"), CAST)
    def test_for_longer(self, servers, long, pool, row):
        """The outcome is unknown then: as with a lost worker."""
        reruns = {"late": (DONE, ["a/f", "a/f", "b/f"]), "early": (COMPENSATED, ["a/f", "a/c"])}
        reruns["late compensation"] = (COMPENSATED, ["a/f", "b/f", "a/c", "a/c"])
        assert servers.ledger(long[pool, row]) == reruns[row]


class TestBrokerUnavailable:
    """The broker ends under running bodies; the store is a server of its own, and stays."""

    @pytest.fixture(scope="class")
    @classmethod
    def outage(cls, servers):
        """Of every pool: a saga whose next step cannot be sent, one whose start is due meanwhile,
        and one whose step runs on all the time.
        """
        pools = list(servers.workers)
        next_step = {pool: servers.start(pool, af="held") for pool in pools}
        running = {pool: servers.start(pool, af="held") for pool in pools if pool != "solo"}
        due = {pool: servers.start(pool, times={"countdown": 1}) for pool in pools}
        for result in [*next_step.values(), *running.values()]:
            servers.journal.wait(result.id, "began")
        servers.broker.kill()
        for result in next_step.values():
            servers.journal.open(result.id, "a/f")
        for pool, result in next_step.items():
            wait_for(
                lambda r=result: r.progress["a"] == "SUCCEEDED",
                description=f"{pool} {servers.workers[pool].text()[-6000:]}",
            )
        since = servers.now()
        wait_for(lambda: servers.now() > since + 4)
        servers.broker.restart()
        for result in running.values():
            servers.journal.open(result.id, "a/f")
        servers.supervise_until([*next_step.values(), *running.values(), *due.values()])
        return {"next step": next_step, "running": running, "due": due}

    #: The solo pool runs one body.
    CELLS: ClassVar = [
        (row, pool)
        for row in ("next step", "running", "due")
        for pool in POOLS
        if (row, pool) != ("running", "solo")
    ]

    @pytest.mark.parametrize(("row", "pool"), CELLS)
    def test_nothing_is_lost_and_nothing_is_run_twice(self, servers, outage, row, pool):
        result = outage[row][pool]
        assert servers.ledger(result) == (DONE, ["a/f", "b/f"])
        assert {step.lost for step in result.execution.steps} == {0}


class TestOneServerUnavailable:
    """Broker and store are one server, which ends under running bodies and comes back.

    The bodies end meanwhile, and so do the workers of some pools, by a fault of Celery's.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def outage(cls, one_server):
        results = {
            (pool, row): one_server.start(pool, *BODIES[row][:1], **BODIES[row][1])
            for pool, row in one_server.cast()
        }
        for (_, row), result in results.items():
            one_server.journal.wait(result.id, "began", 3 if "compensation" in row else 1)
        one_server.store.kill()
        for (_, row), result in results.items():
            one_server.journal.open(result.id, "a/c" if "compensation" in row else "a/f")
        for (_, row), result in results.items():
            one_server.journal.wait(result.id, "ended", 2 if "compensation" in row else 1)
        one_server.store.restart()
        one_server.supervise_until(list(results.values()))
        return results

    @pytest.mark.parametrize(("pool", "row"), CAST)
    def test_the_saga_continues(self, one_server, outage, pool, row):
        compensated = (COMPENSATED, ["a/f", "b/f", "a/c"])
        expected = compensated if "compensation" in row else (DONE, ["a/f", "b/f"])
        assert one_server.ledger(outage[pool, row]) == expected
