"""Client and worker are set up differently: one of them says so, and names the setting."""

from __future__ import annotations

import re

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager, SetupError
from celery_saga.stores.memory import MemoryStore
from tests.helpers import wait_for
from tests.worker.apps.steps import late
from tests.worker.harness import Worker

pytestmark = pytest.mark.worker


def expect_warning(worker: Worker, *texts: str) -> str:
    """A line of the worker's log at WARNING that has all of the texts."""

    def found() -> str:
        lines = worker.text().splitlines()
        lines = [
            line for line in lines if "WARNING" in line and all(text in line for text in texts)
        ]
        return lines[0] if lines else ""

    return wait_for(found, description=f"a warning of {texts}")


class TestTheStore:
    def test_another_database(self, shared):
        (worker,) = shared.workers
        elsewhere = re.sub(r"/\d+$", "/14", shared.url)
        result = Saga("apart", app=shared.new_app(saga_store_url=elsewhere), steps=[late])
        result = result.commit().delay()
        try:
            line = expect_warning(worker, result.id, "saga_store_url", "result_backend = ")
        finally:
            result.forget() if result.ready() else result.cancel()
        assert "its process keeps" not in line
        assert shared.url.partition("@")[0] not in line, "no password is shown"

    def test_another_prefix(self, shared):
        (worker,) = shared.workers
        app = shared.new_app(saga_key_prefix="other:")
        result = Saga("apart", app=app, steps=[late]).commit().delay()
        expect_warning(worker, result.id, "saga_key_prefix = 'saga:'")
        for key in shared.client.scan_iter("other:*"):
            shared.client.delete(key)

    def test_a_message_of_a_saga_that_is_there_says_nothing(self, shared):
        (worker,) = shared.workers
        result = shared.saga(("a", late)).delay()
        assert shared.settled(result) == "COMPLETED"
        lines = [line for line in worker.text().splitlines() if result.id in line]
        assert lines
        assert not any("WARNING" in line for line in lines)


def test_a_task_that_the_worker_does_not_import(shared):
    (worker,) = shared.workers
    saga = Saga("unknown", app=shared.app)
    saga.local_step("unknown.imports.this", name="a", inputs=[])
    result = saga.commit().delay()
    expect_warning(worker, result.id, "unknown.imports.this", "'imports' or 'include'")
    result.cancel()
    assert shared.settled(result) == "COMPENSATED"


def test_a_worker_whose_app_has_no_manager(site):
    worker = site.worker(app="tests.worker.apps.bare", env={"BARE_BROKER": site.url})
    line = expect_warning(worker, "'bare'", "no SagaManager")
    assert "sagas = SagaManager(app)" in line


class TestMemory:
    """``saga_store_url = 'memory://'``, for which each process has a store of its own."""

    @pytest.fixture
    def saga(self, site):
        """On an app of a process that is not a worker, with a real broker."""
        app = site.new_app(saga_store_url="memory://")
        return Saga("in memory", app=app, steps=[late]).commit()

    @pytest.mark.parametrize("saga_id", [None, "order-7"])
    def test_a_start_is_refused(self, site, saga, saga_id):
        with pytest.raises(SetupError, match=r"saga_store_url = 'memory://' .*'redis'.*redis://"):
            saga.apply_async({}, saga_id=saga_id)
        assert site.queued() == 0

    def test_so_is_one_in_a_store_that_is_given(self, site):
        app = Celery("given", broker=site.url, set_as_current=False)
        SagaManager(app, storage=MemoryStore())
        with pytest.raises(SetupError, match="memory://"):
            Saga("in memory", app=app, steps=[late]).commit().delay()
        app.close()

    def test_an_eager_one_is_not(self, site):
        app = site.new_app(saga_store_url="memory://", task_always_eager=True)

        @app.task(name="eager.step", shared=False)
        def step() -> None: ...

        saga = Saga("in memory, eagerly", app=app)
        saga.local_step(step, read_only=True)
        assert saga.commit().delay().get(timeout=5) == {}
        app.conf.task_always_eager = False
        assert saga.s().apply().get(timeout=5) == {}

    def test_nor_one_with_a_broker_in_memory(self, site):
        app = site.new_app(saga_store_url="memory://", broker_url="memory://")
        assert Saga("in memory", app=app, steps=[late]).commit().delay().created
