"""Sagas that are started by a message: beat, redelivery, an unavailable store; and eagerly."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery, chain, chord, group

from celery_saga import DefinitionError, Saga, SagaCompensated, SagaManager, SagaStuck
from celery_saga.core.execution import SagaStatus
from celery_saga.errors import SagaExecutionException
from celery_saga.runtime import runtime_of
from celery_saga.testing.embedded import EmbeddedValkey
from celery_saga.testing.processes import ManagedProcess
from tests.helpers import wait_for
from tests.worker.harness import ROOT

pytestmark = pytest.mark.worker

CANVAS = "tests.worker.apps.functional"


def start_of(app, name="canvas counting", **context):
    return app.signature("celery_saga.start", kwargs={"saga": name, "context": context})


def completed(site):
    return site.client.zcard("saga:name:canvas counting:COMPLETED")


class TestBeat:
    def test_entries_by_name_and_by_signature(self, site, tmp_path):
        site.worker(app="tests.worker.apps.beaten")
        command = [sys.executable, "-m", "celery", "-A", "tests.worker.apps.beaten", "beat"]
        command += ["-s", str(tmp_path / "schedule"), "--max-interval", "1"]
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SAGA_TEST_URL": site.url,
            "SAGA_TEST_SETTINGS": json.dumps(site.settings),
        }
        log = tmp_path / "beat.log"
        beat = ManagedProcess(command, env=env, cwd=str(ROOT), log=str(log))
        try:
            for n in (1_001, 3_001):
                key = f"recorded:add {n}"
                wait_for(lambda k=key: site.journal.client.llen(k) >= 2, 40, description=key)
        finally:
            beat.stop()
        wait_for(lambda: completed(site) >= 4, 20)


class TestRedelivery:
    def test_a_message_that_comes_twice_starts_one_saga(self, site):
        tag = f"twice {site.url}"
        report = site.app.signature("canvas.report", kwargs={"tag": tag})
        start = start_of(site.app, n=1)
        for _ in range(3):
            start.apply_async(task_id="one", link=report)
        site.worker(app=CANVAS)
        found = start.apply_async(task_id="one", link=report)

        assert found.get(timeout=30) == {"n": 3}
        wait_for(lambda: site.queued() == 0)
        assert runtime_of(site.app).store.load("one").revision
        last = start.apply_async()
        assert last.get(timeout=30) == {"n": 3}
        assert completed(site) == 2
        wait_for(lambda: site.journal.client.llen(f"recorded:{tag}"))
        assert site.journal.client.llen(f"recorded:{tag}") == 1
        assert found.get(timeout=1) == {"n": 3}

    def test_a_child_that_dies_with_the_message(self, site):
        """The message is returned to the broker: it does no harm a second time."""
        site.worker(app="tests.worker.apps.dying_at_the_start")
        found = start_of(site.app, n=1).apply_async()
        assert found.get(timeout=40) == {"n": 3}
        assert site.journal.client.get(f"died:{found.id}") == b"1"

    def test_an_unavailable_store(self, site):
        with EmbeddedValkey() as store:
            apart = {"saga_store_url": store.url(0), "saga_store_timeout": 0.5}
            worker = site.worker(app=CANVAS, **apart)
            site.app.conf.update(**apart)
            store.kill()
            found = start_of(site.app, n=1).apply_async()
            wait_for(lambda: "reject requeue=True" in worker.text(), 30)
            store.restart()
            assert found.get(timeout=40) == {"n": 3}

    def test_a_worker_that_is_killed_before_it_takes_the_message(self, site):
        worker = site.worker("-c", "1", app=CANVAS)
        naps = site.app.send_task("canvas.nap", (60,))
        wait_for(lambda: naps.id in worker.text())
        found = start_of(site.app, n=1).apply_async()
        wait_for(lambda: found.id in worker.text())
        worker.signal(signal.SIGQUIT)  # what it holds is returned to the broker
        wait_for(lambda: not worker.process.alive, 30)
        site.worker(app=CANVAS)
        assert found.get(timeout=40) == {"n": 3}


class TestTakenIds:
    @pytest.mark.parametrize("other", ["the name", "the context"])
    def test_the_task_fails_that_comes_second(self, functional_site, flows, other):
        app, tag = functional_site.app, f"taken {uuid.uuid4()}"
        saga_id = str(uuid.uuid4())
        start_of(app, n=1).apply_async(task_id=saga_id).get(timeout=30)
        given = {"name": "canvas sticking", "n": 1} if other == "the name" else {"n": 2}
        complain = app.signature("canvas.complain", kwargs={"tag": tag})
        start_of(app, **given).apply_async(task_id=saga_id, link_error=complain)
        key, client = f"recorded:{tag}", functional_site.journal.client
        wait_for(lambda: client.llen(key), description=key)
        assert json.loads(client.lindex(key, 0))["kind"] == "SagaAlreadyExists"
        assert SagaManager(app).get(saga_id).get(timeout=1) == {"n": 3}


class TestManyAtOnce:
    def test_the_same_id_from_many_threads(self, functional_site, flows):
        app = functional_site.app
        start = start_of(app, n=1)

        def send(number):
            return start.apply_async(task_id="many-at-once")

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(send, range(16)))
        assert [one.get(timeout=30) for one in results] == [{"n": 3}] * 16
        SagaManager(app).get("many-at-once").forget()


class TestEager:
    @pytest.fixture(params=["always eager", "apply"])
    def app(self, request):
        app = Celery("eager", set_as_current=False, broker="memory://", backend="cache+memory://")
        app.conf.update(saga_store_url="memory://", task_always_eager=request.param != "apply")
        SagaManager(app)
        return app

    @pytest.fixture
    def double(self, app):
        @app.task(name="eager.double", shared=False)
        def double(n):
            if n > 100:
                raise ValueError("too much")
            return {"n": 2 * n}

        @app.task(name="eager.compensation", shared=False)
        def compensation(fail=False):
            if fail:
                raise ValueError("cannot be compensated")

        saga = Saga(f"eager {uuid.uuid4()}", app=app)
        saga.local_step(double, name="once").on_failure(compensation, max_attempts=2)
        saga.local_step(double, name="twice")
        return saga.commit()

    def run(self, app, signature):
        return signature.apply_async() if app.conf.task_always_eager else signature.apply()

    def test_a_saga_runs_to_its_end(self, app, double):
        result = self.run(app, double.s(n=1))
        assert result.get() == {"n": 4}
        assert runtime_of(app).store.load(result.id).status is SagaStatus.COMPLETED

    def test_its_result_is_stored_if_those_of_eager_tasks_are(self, app, double):
        app.conf.task_store_eager_result = True
        result = self.run(app, double.s(n=1))
        assert app.AsyncResult(result.id).get() == {"n": 4}
        if app.conf.task_always_eager:
            started = double.delay(n=1)
            assert app.AsyncResult(started.id).get() == {"n": 4}
            assert not started.execution.result_pending

    def test_a_saga_that_fails(self, app, double):
        result = self.run(app, double.s(n=60))
        with pytest.raises(SagaCompensated, match="too much"):
            result.get()
        result = self.run(app, double.s(n=60, fail=True))
        with pytest.raises(SagaStuck, match="cannot be compensated"):
            result.get()

    def test_canvases(self, app, double):
        @app.task(name="eager.report", shared=False)
        def report(*results, **more):
            return list(results)

        assert self.run(app, chain(double.s(n=1), double.s(), report.s())).get() == [{"n": 16}]
        assert self.run(app, group(double.s(n=1), report.s(2))).get() == [{"n": 4}, [2]]
        assert self.run(app, chord([double.s(n=1), double.s(n=2)], report.s())).get() == [
            [{"n": 4}, {"n": 8}]
        ]
        with pytest.raises(SagaCompensated):
            self.run(app, chain(double.s(n=60), report.s())).get()

    def test_values_are_copies_as_if_they_had_travelled(self, app):
        @app.task(name="eager.spoil", shared=False)
        def spoil(items):
            items.append("spoiled")

        saga = Saga("spoiling", app=app, steps=[spoil]).commit()
        assert self.run(app, saga.s(items=[1])).get() == {"items": [1]}

    def test_a_task_that_is_not_declared_here(self, app):
        saga = Saga("elsewhere", app=app)
        saga.local_step("elsewhere.task", inputs=[])
        saga.commit()
        with pytest.raises(SagaExecutionException, match="cannot be run to its end in this call"):
            self.run(app, saga.s()).get()

    def test_an_unknown_name(self, app):
        start = app.signature("celery_saga.start", kwargs={"saga": "unknown's"})
        with pytest.raises(DefinitionError, match="no saga named"):
            self.run(app, start).get()


def test_sagas_beside_tasks_are_found_by_name(site):
    """Nothing but the worker's own discovery imports the module of that saga."""
    site.worker(app="tests.worker.apps.discovered.celery")
    assert start_of(site.app, "discovered", a=1).apply_async().get(timeout=30) == {"a": 4}
    with pytest.raises(DefinitionError, match="no saga named 'canvas counting'"):
        start_of(site.app, n=1).apply_async().get(timeout=30)
