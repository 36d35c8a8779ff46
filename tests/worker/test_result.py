"""The handle of a saga, and the ways to start one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery.exceptions import TimeoutError

from celery_saga import (
    Saga,
    SagaCompensated,
    SagaExecutionNotFoundException,
    SagaManager,
    SagaPastPivot,
    SagaStatus,
    SagaStuck,
)
from celery_saga.errors import SagaFailedExecutionException, UnsupportedCheckpoint
from celery_saga.stores.redis import scripts
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late

pytestmark = pytest.mark.worker


def some_id():
    return f"id-{uuid.uuid4().hex}"


def stored(site):
    return {key.decode() for key in site.client.scan_iter("saga:execution:*")}


class TestGet:
    def test_the_final_context(self, shared):
        result = shared.saga(("a", late)).delay(order_id=7)

        assert result.get(timeout=30).order_id == 7
        assert (result.ready(), result.successful(), result.failed()) == (True, True, False)
        assert result.status is SagaStatus.COMPLETED
        assert dict(result.progress) == {"a": "SUCCEEDED"}

    def test_it_waits_for_a_report_and_does_not_poll(self, shared):
        result = shared.saga(("a", late)).delay(hold=["a/f"])
        shared.journal.wait(result.id, "began")
        with ThreadPoolExecutor(2) as pool, shared.client.monitor() as monitor:
            commands = pool.submit(self.until_mark, monitor)
            waiting = pool.submit(result.get, timeout=30)
            began = shared.client.time()[0]
            wait_for(lambda: shared.client.time()[0] >= began + 2)
            assert not waiting.done()
            shared.journal.open(result.id, "a/f")
            assert waiting.result() == {"hold": ["a/f"]}
            shared.client.echo("enough")
            seen, passed = commands.result(), shared.client.time()[0] - began

        assert any(line.startswith("SUBSCRIBE") and result.id in line for line in seen)
        # Once at once, once at the end, and once between in case that a notice was lost; the worker
        # reads all of it to store the result.
        load = "EVALSHA " + hashlib.sha1(scripts.LOAD.encode()).hexdigest()
        asked = [line for line in seen if line == f"{load} 1 saga:execution:{result.id} "]
        assert 2 <= len(asked) <= 4 + passed / 2

    def until_mark(self, monitor):
        seen = []
        for line in monitor.listen():
            if line["command"] == "ECHO enough":
                return seen
            if line["client_type"] != "lua":
                seen.append(line["command"])
        raise AssertionError("the monitor ended")

    def test_it_stops_waiting_in_time(self, shared):
        result = shared.saga(("a", late)).delay(hold=["a/f"])

        with pytest.raises(TimeoutError):
            result.get(timeout=0.05)
        with pytest.raises(TimeoutError):
            result.get(timeout=0)
        assert not result.ready()
        shared.journal.open(result.id, "a/f")
        assert result.get(timeout=30)

    def test_many_wait_for_one(self, shared):
        result = shared.saga(("a", late)).delay(hold=["a/f"])
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(result.get, timeout=30) for _ in range(8)]
            shared.journal.wait(result.id, "began")
            shared.journal.open(result.id, "a/f")
            assert [one.result() for one in waiting] == [{"hold": ["a/f"]}] * 8

    def test_a_compensated_saga(self, shared):
        result = shared.saga(("a", late, compensation), ("b", late)).delay(fail=["b/f"])

        with pytest.raises(SagaCompensated) as caught:
            result.get(timeout=30)
        error = caught.value
        assert (error.saga_id, error.step) == (result.id, "b")
        assert str(error) == (
            f"saga '{result.id}' was compensated after it failed at step 'b': "
            "builtins.ValueError: b/f fails"
        )
        assert str(result.get(timeout=1, propagate=False)) == str(error)
        assert result.context == {"fail": ["b/f"]}
        assert result.failed()

    def test_a_stuck_saga(self, shared):
        saga = Saga("stuck", app=shared.app)
        saga.local_step(late, name="a").on_failure(compensation, max_attempts=1)
        saga.local_step(late, name="b")
        result = saga.commit().delay(fail=["a/c", "b/f"])

        with pytest.raises(SagaStuck) as caught:
            result.get(timeout=30)
        assert caught.value.step == "a"
        assert "ValueError: a/c fails (after builtins.ValueError: b/f fails)" in str(caught.value)
        assert (result.ready(), result.failed(), result.successful()) == (True, True, False)
        assert asyncio.run(SagaManager(shared.app).repository.delete(result.id)) is None

    def test_inside_a_task_it_is_refused_as_celery_does(self, shared):
        saga = Saga("waits", app=shared.app)
        saga.local_step("results.waits_inside", inputs=[])
        result = saga.commit().delay()

        with pytest.raises(SagaCompensated, match=r"Never call result\.get"):
            result.get(timeout=30)

    def test_an_unknown_id(self, shared):
        manager = SagaManager(shared.app)
        with pytest.raises(SagaExecutionNotFoundException):
            manager.get("unknown")
        result = shared.saga(("a", late)).delay()
        result.get(timeout=30)
        shared.client.delete(f"saga:execution:{result.id}")
        for ask in (result.get, result.ready, lambda: result.status, result.cancel):
            with pytest.raises(SagaExecutionNotFoundException):
                ask()

    def test_the_handle_from_elsewhere(self, shared):
        saga_id = uuid.uuid4()
        first = shared.saga(("a", late)).apply_async({"x": 1}, saga_id=saga_id)
        second = SagaManager(shared.new_app("another")).get(saga_id)

        assert second.get(timeout=30) == {"x": 1}
        assert first == second
        assert first.created
        assert not second.created
        assert {first, second} == {first}
        assert (str(first), repr(first)) == (str(saga_id), f"<SagaResult: {saga_id}>")


class TestRepository:
    def test_load_and_delete(self, shared):
        repository = SagaManager(shared.app).repository
        result = shared.saga(("a", late)).delay(x=1)
        result.get(timeout=30)

        execution = asyncio.run(repository.load(result.id))
        assert (execution.status, execution.context.x) == (SagaStatus.COMPLETED, 1)
        asyncio.run(repository.delete(execution))
        assert f"saga:execution:{result.id}" not in stored(shared)
        for verb in (repository.load, repository.delete):
            with pytest.raises(SagaExecutionNotFoundException):
                asyncio.run(verb(result.id))

    def test_a_checkpoint_of_a_newer_version_is_refused(self, shared):
        result = shared.saga(("a", late)).delay()
        result.get(timeout=30)
        wait_for(lambda: not result.execution.result_pending)  # no process writes it after this
        key = f"saga:execution:{result.id}"
        head = json.loads(shared.client.hget(key, "head"))
        shared.client.hset(key, "head", json.dumps({**head, "version": 99}))

        with pytest.raises(UnsupportedCheckpoint, match=r"version 99.* upgrade celery_saga"):
            result.get(timeout=5)


class TestCancel:
    def test_a_running_step_ends_and_is_compensated(self, shared):
        result = shared.saga(("a", late, compensation), ("b", late)).delay(hold=["a/f"])
        shared.journal.wait(result.id, "began")

        assert result.cancel("no longer wanted", by="ann") is True
        assert result.cancel() is False
        shared.journal.open(result.id, "a/f")

        with pytest.raises(SagaCompensated, match="Cancelled: no longer wanted"):
            result.get(timeout=30)
        assert shared.journal.began(result.id) == ["a/f", "a/c"]
        note = result.execution.history[0]
        assert (note.what, note.by, note.detail) == ("cancel", "ann", "no longer wanted")

    def test_a_step_that_no_worker_started_never_runs(self, site):
        result = site.saga(("a", late, compensation)).delay()

        assert result.cancel() is True
        assert result.status is SagaStatus.COMPENSATED
        worker = site.worker()
        wait_for(lambda: "stale delivery" in worker.text())
        assert site.journal.began(result.id) == []

    def test_of_many_at_once_one_changed_the_outcome(self, site):
        result = site.saga(("a", late, compensation)).delay()
        start = threading.Barrier(16)

        def cancel(number):
            start.wait()
            return result.cancel(by=f"caller {number}")

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(cancel, range(16)))

        assert answers.count(True) == 1
        who = result.execution.history[0].by
        assert answers.index(True) == int(who.split()[1])

    def test_an_ended_saga_stays_as_it_is(self, shared):
        result = shared.saga(("a", late, compensation)).delay()
        result.get(timeout=30)

        assert result.cancel() is False
        assert result.status is SagaStatus.COMPLETED

    def test_a_saga_that_is_stuck_on_its_way_forward_is_compensated(self, shared):
        saga = Saga("stuck", app=shared.app)
        saga.local_step(late, name="a").on_failure(compensation)
        saga.local_step("results.unknown", name="b", inputs=[])
        shared.app.conf.saga_unknown_task_grace = 0
        result = saga.commit().delay()
        with pytest.raises(SagaStuck):
            result.get(timeout=30)

        assert result.cancel() is True
        assert isinstance(result.get(timeout=30, propagate=False), SagaFailedExecutionException)
        assert result.context == {}
        wait_for(lambda: result.status is SagaStatus.COMPENSATED)

    def test_past_the_pivot_it_is_refused(self, shared):
        saga = Saga("pivot", app=shared.app)
        saga.local_step(late, name="a").on_failure(compensation)
        saga.local_step(late, name="b", pivot=True)
        result = saga.commit().delay(hold=["b/f"])
        shared.journal.wait(result.id, "began", 2)

        with pytest.raises(SagaPastPivot, match="'b'"):
            result.cancel()
        shared.journal.open(result.id, "b/f")
        assert result.get(timeout=30)
