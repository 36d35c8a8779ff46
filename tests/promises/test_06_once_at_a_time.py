"""What looks like a loss and is none: no body runs a second time.

Also: ``test_pools.py`` (a step that keeps the solo pool's whole worker busy),
``test_07_late_effects.py`` (a worker that is stopped for less than its liveness),
``test_messages_lost_and_doubled.py`` (a backlog).
``python -m benchmarks recovery --calm`` runs all of it at default settings.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from celery_saga import Saga, SagaManager, SagaResult
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.worker.apps import bodies as tasks
from tests.worker.apps.steps import compensation, early, late
from tests.worker.harness import QUICK, Site
from tests.worker.targets import ALL, DONE, ENDED, Target, hold_all, target

pytestmark = pytest.mark.worker

#: Seconds that a server is unavailable: more than twice as long as a silent worker counts as alive.
OUTAGE = 2.5 * QUICK["saga_heartbeat_ttl"]
#: What the workers of each pool run; the solo pool has room for one body.
CAST = {"prefork": ALL, "threads": ALL, "solo": ("early",), "gevent": ALL}
ROWS = [(pool, row) for pool, rows in CAST.items() for row in rows]


@pytest.fixture(scope="module")
def apart(journal, folder) -> Iterator[tuple[Site, EmbeddedValkey, EmbeddedValkey]]:
    """Broker and store on a server each; their data outlive a crash."""
    with EmbeddedValkey(append_only=True) as broker, EmbeddedValkey(append_only=True) as store:
        site = Site(broker.url(), journal, folder)
        site.settings["saga_store_url"] = site.app.conf.saga_store_url = store.url()
        try:
            yield site, broker, store
        finally:
            site.close()


def pass_time(site: Site, seconds: float) -> None:
    """Wait by the clock of a server that is always available."""

    def now() -> float:
        seconds, micros = site.journal.client.time()  # type: ignore[misc]
        return float(seconds + micros / 1e6)

    until = now() + seconds
    wait_for(lambda: now() >= until, seconds + 20)


def let_all_end(targets: dict[str, Target]) -> None:
    for found in targets.values():
        for row in found.sagas:
            found.let_end(row)


class TestStoreUnavailable:
    """The store is unavailable for long, under the bodies of all pools."""

    @pytest.fixture(scope="class", params=["bodies end meanwhile", "bodies end later"])
    @classmethod
    def targets(cls, request, apart) -> Iterator[dict[str, Target]]:
        site, _, store = apart
        rescuer = site.worker("-Q", "rescue", app="tests.worker.apps.table")
        site_pair = site, rescuer
        found = {pool: target(site_pair, pool, len(rows)) for pool, rows in CAST.items()}
        for pool, rows in CAST.items():
            hold_all([found[pool]], rows)
        store.kill()
        if request.param == "bodies end meanwhile":
            let_all_end(found)
        pass_time(site, OUTAGE)
        store.restart()
        if request.param == "bodies end later":
            pass_time(site, OUTAGE)  # the first one back has time to reclaim from the others
            let_all_end(found)
        yield found
        for each in (rescuer, *(one.worker for one in found.values())):
            each.kill()

    @pytest.mark.parametrize(("pool", "row"), ROWS)
    def test_each_body_runs_once(self, targets, pool, row):
        found = targets[pool]
        assert found.ledger(row) == ENDED[row]
        assert {step.lost for step in found.sagas[row].execution.steps} == {0}


def test_the_broker_is_unavailable_under_a_step_of_the_solo_pool(apart):
    """The other pools: ``test_08_unavailable_servers.py``."""
    site, broker, _ = apart
    site.worker("-P", "solo", "-Q", "solo", app="tests.worker.apps.table")
    saga = Saga("solo", app=site.app)
    saga.local_step(tasks.early, name="a", queue="solo").on_failure(
        tasks.compensation, queue="solo"
    )
    result = saga.commit().delay(ways={"a/f": "held"})
    site.journal.wait(result.id, "began")
    broker.kill()
    pass_time(site, OUTAGE)
    broker.restart()
    pass_time(site, OUTAGE)
    site.journal.open(result.id, "a/f")

    assert site.settled(result) == DONE
    assert site.journal.began(result.id) == ["a/f"]


def test_children_that_are_replaced_all_the_time_under_a_busy_heartbeat(site):
    """A fork that came upon a lock of the heartbeat's would wait for ever, its step with it."""
    site.worker("--max-tasks-per-child", "1", saga_heartbeat=0.02)
    saga = site.saga(*[(f"s{number}", late, compensation) for number in range(20)])
    results = [saga.delay() for _ in range(3)]

    for result in results:
        assert site.settled(result, timeout=100) == DONE
        assert site.journal.began(result.id) == [f"s{number}/f" for number in range(20)]
        assert {step.lost for step in result.execution.steps} == {0}
    processes = {line["pid"] for result in results for line in site.journal.of(result.id)}
    assert len(processes) == 60


@pytest.mark.parametrize("task", [late, early])
def test_a_worker_that_holds_a_hundred_messages(site, task):
    """They wait for a body to end, for longer than a message that no worker has is missed."""
    # At their default pace: a message that no worker has is missed after two heartbeats, which
    # a busy machine must not delay here.
    calm = {"saga_heartbeat": 2.0, "saga_heartbeat_ttl": 6.0}
    site.worker("-c", "1", worker_prefetch_multiplier=100, **calm)
    site.worker("-c", "1", "-Q", "elsewhere", **calm)
    first = site.saga(("a", task, compensation)).delay(hold=["a/f"])
    site.journal.wait(first.id, "began")
    results = [site.saga(("a", task, compensation), ("b", task)).delay() for _ in range(99)]
    wait_for(lambda: site.queued() == 0, description="the worker has all messages")
    site.pass_time(9)
    site.journal.open(first.id, "a/f")

    for result in [first, *results]:
        assert site.settled(result) == DONE
    for result in results:
        assert site.journal.began(result.id) == ["a/f", "b/f"]
        assert [step.republished for step in result.execution.steps] == [0, 0]


class TestRateLimit:
    """Celery's consumer keeps the messages meanwhile, and counts them as no worker's."""

    def start(self, site) -> list[SagaResult]:
        results = [site.saga(("a", late)).delay() for _ in range(3)]
        wait_for(lambda: site.queued() == 0, description="the worker has all messages")
        return results

    @pytest.mark.parametrize("pool", ["prefork", "threads"])
    def test_what_waits_for_it_is_sent_once(self, site, pool):
        # One body in six seconds: a message that no worker has is missed after four.
        site.worker("--pool", pool, task_annotations={late.name: {"rate_limit": "10/m"}})
        results = self.start(site)
        for result in results:
            assert site.settled(result) == DONE
            assert site.journal.began(result.id) == ["a/f"]
            assert result.execution.steps[0].republished == 0
        ended = [result.execution.updated_at for result in results]
        assert max(ended) - min(ended) > 10, "they have waited"

    def test_it_is_lost_with_its_worker(self, site):
        site.worker("-c", "1", task_annotations={late.name: {"rate_limit": "1/h"}})
        results = self.start(site)
        wait_for(lambda: DONE in [result.status.value for result in results])
        site.pass_time(6)
        assert sorted(result.execution.steps[0].republished for result in results) == [0, 0, 0]

        site.workers[0].kill()
        killed = site.now()
        site.worker()

        for result in results:
            assert site.settled(result) == DONE
            assert site.journal.began(result.id) == ["a/f"]
        assert site.now() - killed < 10


class TestEagerly:
    """A task runs a whole saga inside of itself: the worker has no request for its steps."""

    def start(self, site, pool: str) -> SagaResult:
        self.id = str(uuid.uuid4())
        site.worker("--pool", pool, app="tests.worker.apps.eagerly")
        self.outer = site.app.send_task("eagerly.run", (self.id, ["a/f"]))
        site.journal.wait(self.id, "began")
        site.pass_time(4)  # 20 beats
        assert site.journal.began(self.id) == ["a/f"]
        return SagaManager(site.app).get(self.id)

    @pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
    def test_each_body_runs_once(self, site, pool):
        result = self.start(site, pool)
        site.journal.open(self.id, "a/f")
        assert self.outer.get(timeout=30) == "SUCCESS"
        assert site.journal.began(self.id) == ["a/f", "b/f"]
        assert [step.lost for step in result.execution.steps] == [0, 0]

    @pytest.mark.parametrize("what", ["child", "worker"])
    def test_its_process_is_killed(self, site, what):
        result = self.start(site, "prefork")
        line = site.journal.said(self.id, "began")[0]
        if what == "child":
            site.kill_child(line)
        else:
            site.workers[0].kill()
            site.worker()
        site.journal.wait(self.id, "began", 2, timeout=10)
        site.journal.open(self.id, "a/f")
        assert site.settled(result) == DONE
        assert site.journal.began(self.id) == ["a/f", "a/f", "b/f"]
