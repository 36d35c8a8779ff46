"""Every pool of Celery's runs sagas, compensates them, and recovers; and so does eager mode."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import uuid

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager, SagaStuck, saga_info
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, early, late

pytestmark = pytest.mark.worker

POOLS = [
    pytest.param(("-P", "threads"), id="threads"),
    pytest.param(("-P", "solo"), id="solo"),
    pytest.param(
        ("-P", "gevent"),
        id="gevent",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("gevent") is None, reason="gevent is not installed"
        ),
    ),
]


@pytest.mark.parametrize("options", POOLS)
class TestPools:
    def test_sagas_succeed_and_fail(self, site, options):
        site.worker(*options)
        saga = site.saga(("a", late, compensation), ("b", early, compensation), ("c", late))
        good = [saga.delay() for _ in range(5)]
        bad = [saga.delay(fail=["c/f"]) for _ in range(5)]

        assert [site.settled(result) for result in good] == ["COMPLETED"] * 5
        assert [site.settled(result) for result in bad] == ["COMPENSATED"] * 5
        for result in good:
            assert site.journal.began(result.id) == ["a/f", "b/f", "c/f"]
        for result in bad:
            assert site.journal.began(result.id) == ["a/f", "b/f", "c/f", "b/c", "a/c"]

    def test_a_saga_continues_after_its_worker_was_killed(self, site, options):
        worker = site.worker(*options)
        result = site.saga(("a", late, compensation), ("b", early)).delay(hold=["a/f"])
        site.journal.wait(result.id, "began")
        worker.kill()

        site.worker(*options)
        site.journal.wait(result.id, "began", 2)
        site.journal.open(result.id, "a/f")

        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == ["a/f", "a/f", "b/f"]

    def test_a_long_step_keeps_its_claim(self, site, options):
        """The heartbeat continues although the pool, or the whole main thread, is busy."""
        site.worker(*options)
        site.worker()
        result = site.saga(("a", late, compensation)).delay(hold=["a/f"])
        site.journal.wait(result.id, "began")

        began = site.client.time()[0]
        wait_for(lambda: site.client.time()[0] >= began + 5)
        site.journal.open(result.id, "a/f")

        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == ["a/f"]

    def test_a_warm_shutdown_waits_for_the_step(self, site, options):
        worker = site.worker(*options)
        result = site.saga(("a", late, compensation)).delay(hold=["a/f"])
        site.journal.wait(result.id, "began")
        worker.signal(signal.SIGTERM)
        wait_for(lambda: "Warm shutdown" in worker.text() or "solo" in options)
        site.journal.open(result.id, "a/f")

        assert site.settled(result) == "COMPLETED"
        wait_for(lambda: not worker.process.alive, timeout=20)
        assert worker.process.returncode == 0
        assert site.journal.began(result.id) == ["a/f"]


@pytest.mark.parametrize("options", POOLS)
def test_coroutine_functions_overlap(site, options):
    site.worker(*options, "-c", "8", app="tests.worker.apps.functional")
    saga = Saga("async", app=site.app)
    for name in "abc":
        saga.local_step("tests.worker.apps.kinds.slowly_fetched", name=name, inputs=["a"])
    saga.commit()
    results = [saga.delay(a=number) for number in range(8)]

    for result in results:
        assert result.get(timeout=30)["by"] == result.id


def test_replaced_children_take_over_without_a_loss(site):
    site.worker("--max-tasks-per-child", "1")
    saga = site.saga(*[(name, late, compensation) for name in "abc"], ("d", early))
    good, bad = saga.delay(), saga.delay(fail=["d/f"])

    assert (site.settled(good), site.settled(bad)) == ("COMPLETED", "COMPENSATED")
    lines = site.journal.said(good.id, "began") + site.journal.said(bad.id, "began")
    assert len(lines) == 4 + 7
    assert len({line["pid"] for line in lines}) == len(lines)
    for result in (good, bad):
        assert {step.lost for step in result.execution.steps} == {0}


@pytest.mark.parametrize("when", ["starting", "running"])
def test_steps_that_overlap_on_one_worker_do_not_mix(site, when):
    """Many sagas at once in threads of one process: each body has its own saga_info."""
    site.worker("-P", "threads", "-c", "8")
    saga = site.saga(("a", late))
    hold = ["a/f"] if when == "running" else []
    results = [saga.delay(hold=hold) for _ in range(8)]
    for result in results:
        site.journal.wait(result.id, "began")
    for result in results:
        site.journal.open(result.id, "a/f")

    assert [site.settled(result) for result in results] == ["COMPLETED"] * 8
    for result in results:
        keys = [line["idempotency_key"] for line in site.journal.of(result.id)]
        assert keys == [f"{result.id}/a/f/0"] * 2


class TestEager:
    @pytest.fixture
    def app(self, valkey):
        app = Celery("eager", broker="memory://", set_as_current=False)
        SagaManager(app)
        app.conf.update(task_always_eager=True, saga_store_url=valkey.url(14))
        yield app
        app.close()

    def test_forward_and_back_with_the_same_ledger(self, app, journal):
        saga = Saga(f"eager {uuid.uuid4()}", app=app)
        saga.local_step(late, name="a").on_failure(compensation)
        saga.local_step(late, name="b").on_failure(compensation)
        saga.local_step(late, name="c")
        saga.commit()

        good, bad = saga.delay(), saga.delay(fail=["c/f"])

        assert (good.status.value, bad.status.value) == ("COMPLETED", "COMPENSATED")
        assert journal.began(good.id) == ["a/f", "b/f", "c/f"]
        assert journal.began(bad.id) == ["a/f", "b/f", "c/f", "b/c", "a/c"]

    def test_coroutine_functions_in_asynchronous_code(self, app):
        @app.task(name="eager.fetched", shared=False)
        async def fetched():
            await asyncio.sleep(0)
            return {"by": saga_info().saga_id}

        saga = Saga("async", app=app, steps=[fetched, fetched]).commit()

        async def asynchronous():
            return saga.delay()

        result = asyncio.run(asynchronous())
        assert result.get(timeout=5) == {"by": result.id}

    def test_a_long_saga_does_not_nest(self, app, journal):
        saga = Saga("long", app=app, steps=[late] * 300).commit()
        assert saga.delay().status.value == "COMPLETED"

    def test_a_body_that_ends_its_process_ends_the_call(self, app, journal):
        @app.task(name="eager.leaves", shared=False)
        def leaves():
            raise SystemExit(3)

        saga = Saga(f"eager {uuid.uuid4()}", app=app)
        saga.local_step(late, name="a").on_failure(compensation)
        saga.local_step(leaves, name="b")
        saga_id = str(uuid.uuid4())
        with pytest.raises(SystemExit):
            saga.commit().apply_async({}, saga_id=saga_id)

        left = SagaManager(app).get(saga_id)
        assert dict(left.progress) == {"a": "SUCCEEDED", "b": "RUNNING"}
        assert journal.began(saga_id) == ["a/f"]

    def test_a_compensation_that_fails_is_tried_again(self, app, journal):
        saga = Saga(f"eager {uuid.uuid4()}", app=app)
        saga.local_step(late, name="a").on_failure(compensation, max_attempts=3, retry_backoff=0.01)
        saga.local_step(late, name="b")
        result = saga.commit().delay(fail=["a/c", "b/f"])

        with pytest.raises(SagaStuck):
            result.get(timeout=5)
        assert journal.began(result.id) == ["a/f", "b/f", "a/c", "a/c", "a/c"]
        assert dict(result.progress) == {"a": "COMPENSATION_FAILED", "b": "FAILED"}
