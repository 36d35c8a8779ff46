"""The saga's id is a Celery result id: what is stored there, when, and what deletes it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading

import pytest
from celery.backends.base import DisabledBackend
from celery.result import AsyncResult

from celery_saga import Saga, SagaCompensated, SagaNotActionable, SagaNotFound, SagaStuck
from celery_saga.core.events import ResolveRequested, RetryRequested
from celery_saga.core.execution import SagaStatus
from celery_saga.errors import StoreUnavailable
from celery_saga.runtime import Runtime, runtime_of
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late
from tests.worker.harness import ROOT

pytestmark = pytest.mark.worker

#: The app whose workers know the sagas of ``tests.worker.apps.canvas``.
CANVAS = "tests.worker.apps.functional"

#: The result backend fails at once, as if its retries were over.
NO_RETRIES = {"retry_policy": {"max_retries": 0}}


def celery_result(site, saga_id):
    return AsyncResult(saga_id, app=site.app)


def recorded(site, tag):
    lines = site.journal.client.lrange(f"recorded:{tag}", 0, -1)
    return [json.loads(line) for line in lines]


def stuck_saga(site):
    saga = Saga("stuck", app=site.app)
    saga.local_step(late, name="a").on_failure(compensation, max_attempts=1)
    saga.local_step(late, name="b")
    return saga.commit()


def result_published(result):
    wait_for(lambda: not result.execution.result_pending, 30)
    return result.execution


class TestStored:
    def test_the_final_context(self, shared):
        result = shared.saga(("a", late), ("b", late)).delay(order={"id": 7}, hold=[])
        found = celery_result(shared, result.id)

        assert found.get(timeout=30) == result.get() == {"order": {"id": 7}, "hold": []}
        assert (found.state, found.traceback) == ("SUCCESS", None)
        assert found.date_done is not None
        assert result_published(result).due_at is None

    def test_nothing_before_the_end(self, shared):
        result = shared.saga(("a", late)).delay(hold=["a/f"])
        shared.journal.wait(result.id, "began")
        assert celery_result(shared, result.id).state == "PENDING"
        shared.journal.open(result.id, "a/f")
        assert celery_result(shared, result.id).get(timeout=30)

    def test_a_compensated_saga_has_failed(self, shared):
        result = shared.saga(("a", late, compensation), ("b", late)).delay(fail=["b/f"])
        with pytest.raises(SagaCompensated) as caught:
            celery_result(shared, result.id).get(timeout=30)
        assert (caught.value.saga_id, caught.value.step) == (result.id, "b")
        with pytest.raises(SagaCompensated) as same:
            result.get()
        assert str(caught.value) == str(same.value)

    def test_a_stuck_saga_has_failed_until_an_operator_repairs_it(self, shared):
        result = stuck_saga(shared).delay(fail=["a/c", "b/f"])
        with pytest.raises(SagaStuck, match="a/c fails"):
            celery_result(shared, result.id).get(timeout=30)

        result_published(result)
        orchestrator = runtime_of(shared.app).orchestrator
        orchestrator.apply(result.id, RetryRequested(orchestrator.store.now(), "ann"))
        wait_for(lambda: result.status is SagaStatus.STUCK and len(result.execution.history) > 2)
        retry = RetryRequested(orchestrator.store.now(), "ann", {"fail": []})
        orchestrator.apply(result.id, retry)
        with pytest.raises(SagaCompensated):
            result.get(timeout=30)
        result_published(result)
        with pytest.raises(SagaCompensated):
            celery_result(shared, result.id).get(timeout=30)

    def test_a_saga_that_is_settled_by_a_client_without_a_worker(self, site):
        result = site.saga(("a", late)).delay()
        assert result.cancel()
        with pytest.raises(SagaCompensated, match="cancelled"):
            celery_result(site, result.id).get(timeout=1)
        assert not result.execution.result_pending

    def test_typed_errors_in_another_process(self, shared):
        saga = shared.saga(("a", late, compensation))
        results = [saga.delay(fail=["a/f"]), stuck_saga(shared).delay(fail=["a/c", "b/f"])]
        script = (
            "import sys; from celery import Celery; import celery_saga\n"
            "from celery.result import AsyncResult\n"
            "url, *ids = sys.argv[1:]; app = Celery('x', broker=url, backend=url)\n"
            "for one in ids:\n"
            "    try: AsyncResult(one, app=app).get(timeout=30)\n"
            "    except celery_saga.SagaError as e: print(type(e).__name__, e.saga_id, e.step)\n"
        )
        command = [sys.executable, "-c", script, shared.url, *[one.id for one in results]]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True, env=env
        )
        assert answer.stdout.splitlines() == [
            f"SagaCompensated {results[0].id} a",
            f"SagaStuck {results[1].id} a",
        ]

    def test_callers_are_notified_once(self, shared):
        start = shared.app.signature(
            "celery_saga.start", kwargs={"saga": "canvas counting", "context": {"n": 1}}
        )
        ids = []
        for number in range(20):
            report = shared.app.signature("canvas.report", kwargs={"tag": f"once {number}"})
            ids.append(start.apply_async(link=report).id)
        for number, saga_id in enumerate(ids):
            assert celery_result(shared, saga_id).get(timeout=30) == {"n": 3}
            execution = runtime_of(shared.app).orchestrator.load(saga_id)
            wait_for(lambda one=saga_id: runtime_of(shared.app).store.load(one).callbacks is None)
            assert execution.settled
            wait_for(lambda n=number: recorded(shared, f"once {n}"))
        assert [len(recorded(shared, f"once {number}")) for number in range(20)] == [1] * 20


class TestNotStored:
    def test_if_the_app_ignores_results(self, shared):
        shared.app.conf.task_ignore_result = True
        try:
            result = shared.saga(("a", late)).delay()
        finally:
            shared.app.conf.task_ignore_result = False
        result.get(timeout=30)
        assert not result.execution.result_pending
        assert not shared.client.exists(f"celery-task-meta-{result.id}")

    def test_without_a_backend(self, site):
        app = site.new_app("bare", result_backend=None, saga_store_url=site.url)
        assert isinstance(app.backend, DisabledBackend)
        site.start(app="tests.worker.apps.site", result_backend=None, saga_store_url=site.url)
        result = Saga("bare", app=app, steps=[late]).commit().delay()
        result.get(timeout=40)
        assert not result.execution.result_pending
        result_published(result)
        result.forget()


class TestTrouble:
    def test_a_worker_that_is_killed_between_the_end_and_the_result(self, site):
        worker = site.worker(app="tests.worker.apps.slow_to_publish")
        report = site.app.signature("canvas.report", kwargs={"tag": f"after {site.url}"})
        start = site.app.signature(
            "celery_saga.start", kwargs={"saga": "canvas counting", "context": {"n": 1}}
        )
        found = start.apply_async(link=report)
        wait_for(lambda: recorded(site, f"end of {found.id}"), 30)
        assert runtime_of(site.app).orchestrator.load(found.id).status is SagaStatus.COMPLETED
        assert found.state == "PENDING"
        worker.kill()

        site.worker(app=CANVAS)
        assert found.get(timeout=40) == {"n": 3}
        wait_for(lambda: recorded(site, f"after {site.url}"))

    def test_a_result_backend_that_is_unavailable_at_the_end(self, site):
        with EmbeddedValkey() as backend:
            apart = {"result_backend": backend.url(0), "saga_store_url": site.url}
            worker = site.worker(app=CANVAS, **apart)
            app = site.new_app("apart", **apart)
            tag = f"unavailable {site.url}"
            report = app.signature("canvas.report", kwargs={"tag": tag})
            names = {"saga": "canvas holding", "context": {"hold": ["b/f"]}}
            found = app.signature("celery_saga.start", kwargs=names).apply_async(link=report)
            site.journal.wait(found.id, "began", 2)
            backend.kill()
            site.journal.open(found.id, "b/f")
            execution = runtime_of(app).store.wait(found.id, 30)
            assert (execution.status, execution.result_pending) == (SagaStatus.COMPLETED, True)
            wait_for(lambda: "could not be published" in worker.text(), 30)
            other = Saga("other", app=app, steps=[late, late]).commit().delay()
            assert other.get(timeout=30) == {}
            assert recorded(site, tag) == []

            backend.restart()
            assert AsyncResult(found.id, app=app).get(timeout=60) == {"hold": ["b/f"]}
            wait_for(lambda: not runtime_of(app).store.load(found.id).result_pending, 30)
            wait_for(lambda: recorded(site, tag))
            assert len(recorded(site, tag)) == 1
            result_published(other)

    def test_a_broker_that_is_unavailable_at_the_end(self, site):
        """The result is stored at once, and callers are notified when the broker is back."""
        with EmbeddedValkey() as broker:
            apart = {"broker_url": broker.url(0), "saga_store_url": site.url}
            worker = site.worker(app=CANVAS, **apart)
            app = site.new_app("apart", **apart)
            tag = f"no broker {site.url}"
            report = app.signature("canvas.report", kwargs={"tag": tag})
            names = {"saga": "canvas holding", "context": {"hold": ["b/f"]}}
            found = app.signature("celery_saga.start", kwargs=names).apply_async(link=report)
            site.journal.wait(found.id, "began", 2)
            broker.kill()
            site.journal.open(found.id, "b/f")
            assert AsyncResult(found.id, app=app).get(timeout=40) == {"hold": ["b/f"]}
            wait_for(lambda: "could not be published" in worker.text(), 30)

            broker.restart()
            site.worker(app=CANVAS, **apart)  # the first may not have survived it
            wait_for(lambda: recorded(site, tag), 60)
            wait_for(lambda: runtime_of(app).store.load(found.id).callbacks is None, 30)

    def test_a_result_backend_that_hangs_does_not_stop_the_heartbeat(self, site):
        with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes calls and says nothing
            apart = {
                "result_backend": f"redis://127.0.0.1:{silent.getsockname()[1]}/0",
                "saga_store_url": site.url,
            }
            site.worker(**apart)
            app = site.new_app("apart", **apart)
            result = Saga("apart", app=app, steps=[late]).commit().delay()
            result.get(timeout=30)
            before = result.execution.revision
            wait_for(lambda: result.execution.revision > before, 40, description="a look")
            beats = site.client.zscore("saga:instances", self.newest(site))
            wait_for(lambda: site.client.zscore("saga:instances", self.newest(site)) > beats + 2)
            assert result.execution.result_pending
            assert runtime_of(app).store.delete(result.id)

    def newest(self, site):
        return site.client.zrange("saga:instances", -1, -1)[0]


class TestForget:
    @pytest.mark.parametrize("fail", [[], ["b/f"]], ids=["completed", "compensated"])
    def test_a_saga_that_has_ended_is_deleted(self, shared, fail):
        result = shared.saga(("a", late, compensation), ("b", late)).delay(fail=fail)
        result.get(timeout=30, propagate=False)
        result.forget()

        for ask in (result.get, result.ready, result.forget):
            with pytest.raises(SagaNotFound):
                ask()
        assert celery_result(shared, result.id).state == "PENDING"
        keys = [key for key in shared.client.scan_iter(f"*{result.id}*")]
        assert keys == []
        for index in ("status", "name"):
            for key in shared.client.scan_iter(f"saga:{index}:*"):
                assert shared.client.zscore(key, result.id) is None

    def test_a_live_saga_is_refused(self, shared):
        result = shared.saga(("a", late, compensation)).delay(hold=["a/f"])
        shared.journal.wait(result.id, "began")
        with pytest.raises(SagaNotActionable, match="is RUNNING: forget does not apply"):
            result.forget()
        shared.journal.open(result.id, "a/f")
        assert result.get(timeout=30) == celery_result(shared, result.id).get(timeout=30)

    def test_a_stuck_saga_is_refused(self, shared):
        result = stuck_saga(shared).delay(fail=["a/c", "b/f"])
        result.get(timeout=30, propagate=False)
        with pytest.raises(SagaNotActionable, match="is STUCK"):
            result.forget()
        assert result.failed()
        result_published(result)
        with pytest.raises(SagaStuck):
            celery_result(shared, result.id).get(timeout=1)
        orchestrator = runtime_of(shared.app).orchestrator
        at = orchestrator.store.now()
        orchestrator.apply(result.id, ResolveRequested(at, SagaStatus.COMPENSATED, "ann"))
        result.forget()

    def test_an_unpublished_result_is_not_forgotten(self, site, monkeypatch):
        monkeypatch.setattr("celery_saga.result.NOTICE_TIMEOUT", 0.1)
        apart = {
            "result_backend": unreachable_url(),
            "saga_store_url": site.url,
            "result_backend_transport_options": NO_RETRIES,
        }
        app = site.new_app("apart", **apart)
        result = Saga("apart", app=app, steps=[late]).commit().delay()
        assert result.cancel()
        with pytest.raises(SagaNotActionable, match="its result is not stored yet"):
            result.forget()
        assert result.execution.result_pending
        runtime_of(app).store.delete(result.id)


def unreachable_url():
    """The address of a server that was stopped."""
    with EmbeddedValkey() as server:
        return server.url(0)


class TestTheSameIdAgain:
    """After its checkpoint is lost the id starts a new saga, and the old result does not show."""

    @pytest.mark.parametrize("how", ["forgotten", "expired"])
    @pytest.mark.parametrize("fail", [[], ["a/f"]], ids=["completed", "compensated"])
    def test_delay(self, shared, how, fail):
        saga_id = f"again-{how}-{bool(fail)}"
        saga = shared.saga(("a", late))
        first = saga.apply_async({"fail": fail}, saga_id=saga_id)
        first.get(timeout=30, propagate=False)
        result_published(first)
        self.remove(shared, first, how)

        second = saga.apply_async({"hold": ["a/f"], "second": True}, saga_id=saga_id)
        assert second.created
        shared.journal.wait(saga_id, "began", 2)
        assert celery_result(shared, saga_id).state == "PENDING"
        shared.journal.open(saga_id, "a/f")
        assert celery_result(shared, saga_id).get(timeout=30)["second"] is True
        assert first.get(timeout=30)["second"] is True
        shared.journal.client.delete(f"journal:{saga_id}")
        second.forget()

    def remove(self, site, result, how):
        if how == "forgotten":
            result.forget()
        else:
            assert site.client.delete(f"saga:execution:{result.id}")
            assert celery_result(site, result.id).ready()

    def test_by_a_message(self, shared):
        start = shared.app.signature("celery_saga.start", kwargs={"saga": "canvas counting"})
        for n in (1, 5):
            found = start.apply_async(kwargs={"context": {"n": n}}, task_id="again-message")
            wait_for(lambda expected=n + 2: self.value(shared) == {"n": expected}, 30)
            assert shared.client.delete("saga:execution:again-message")
        celery_result(shared, found.id).forget()

    def value(self, site):
        execution = runtime_of(site.app).store.load("again-message")
        done = execution is not None and execution.settled and not execution.result_pending
        return celery_result(site, "again-message").result if done else None

    def test_a_duplicate_start_keeps_the_result(self, shared):
        saga = shared.saga(("a", late))
        first = saga.apply_async({"n": 1}, saga_id="again-duplicate")
        first.get(timeout=30)
        result_published(first)
        second = saga.apply_async({"n": 2}, saga_id="again-duplicate", on_duplicate="return_any")
        assert not second.created
        assert celery_result(shared, first.id).get(timeout=1) == {"n": 1}
        first.forget()

    def test_starts_at_once_lose_no_result(self, shared):
        """One may drop what it takes for an old result, when another's saga has ended since."""
        saga, at_once = shared.saga(("a", late)), threading.Barrier(8)

        def start():
            at_once.wait()
            saga.apply_async({}, saga_id="again-at-once")

        for _ in range(5):
            threads = [threading.Thread(target=start) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            result = saga.apply_async({}, saga_id="again-at-once")
            result.get(timeout=30)
            result_published(result)
            assert celery_result(shared, result.id).state == "SUCCESS"
            result.forget()

    def test_a_result_that_was_taken_for_an_old_one_is_stored_again(self, shared, monkeypatch):
        saga = shared.saga(("a", late))
        first = saga.apply_async({"n": 1}, saga_id="again-mistaken")
        first.get(timeout=30)
        result_published(first)

        def too_late(runtime, saga_id):
            """As if the saga had been started, and had ended, after the look for it."""
            runtime.app.backend.forget(saga_id)
            return True

        monkeypatch.setattr(Runtime, "drop_old_result", too_late)
        assert not saga.apply_async({"n": 1}, saga_id="again-mistaken").created
        assert celery_result(shared, first.id).get(timeout=1) == {"n": 1}
        first.forget()

    def test_an_unavailable_backend_is_reported(self, site):
        app = site.new_app("apart", result_backend=unreachable_url(), saga_store_url=site.url)
        saga = Saga("apart", app=app, steps=[late]).commit()
        with pytest.raises(StoreUnavailable, match="the result backend does not answer"):
            saga.apply_async({}, saga_id="unknown")
        assert site.queued() == 0
