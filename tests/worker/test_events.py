"""What Flower shows of sagas, without knowing any: rows that end, and links that lead somewhere."""

from __future__ import annotations

import ast

import pytest
from celery import chain

from celery_saga import SagaManager
from celery_saga.core.events import Dispatch
from tests.helpers import wait_for
from tests.worker.watching import watching

pytestmark = pytest.mark.worker


@pytest.fixture(scope="module")
def watch(functional_site):
    """Events are switched on as Flower does it: the shared worker was started without them."""
    app = functional_site.app
    wait_for(lambda: app.control.enable_events(reply=True), description="a worker's answer")
    with watching(app) as found:
        yield found
    app.control.disable_events(reply=True)


def manager_of(canvas):
    return SagaManager(canvas.app)


def send_again(canvas, saga_id, step=0):
    """A second message of the task that is on its way."""
    orchestrator = manager_of(canvas)._runtime.orchestrator
    execution = orchestrator.load(saga_id)
    ref = execution.ref(step)
    publisher = orchestrator.publisher
    publisher.publish(publisher.message(execution, Dispatch(ref)))


class TestRowsEnd:
    @pytest.mark.parametrize(
        ("limit", "status", "state"),
        [(100, "COMPLETED", "SUCCESS"), (0, "COMPENSATED", "FAILURE")],
    )
    def test_the_start_succeeds_and_the_result_is_the_sagas(
        self, canvas, watch, limit, status, state
    ):
        result = canvas.counting.s(n=1, limit=limit).apply_async()

        saga = manager_of(canvas)
        result.get(timeout=30, propagate=False)
        row = watch.until(result.id, "SUCCESS")
        assert row.result == repr(result.id)
        assert 0 <= row.runtime < 60
        assert saga.get(result.id).status.value == status
        assert result.state == state
        assert watch.of(result.id) == ["task-received", "task-started", "task-succeeded"]
        over = {"SUCCESS", "FAILURE"}
        wait_for(lambda: {row.state for row in watch.rows(result.id).values()} <= over)

    def test_its_callers_are_called_once(self, functional_site, canvas, watch):
        link = canvas.report.s(tag="once")
        result = canvas.counting.s(n=1).apply_async(link=link)
        functional_site.journal.client.blpop(["recorded:once"], timeout=30)
        watch.until(result.id, "SUCCESS")
        wait_for(lambda: watch.named("canvas.report"), description="the event of the callback")
        called = [event for event in watch.events if event.get("parent_id") == result.id]
        assert sorted(event["name"] for event in called) == ["canvas.add", "canvas.report"]

    def test_a_start_that_fails_has_failed(self, canvas, watch):
        result = canvas.app.signature("celery_saga.start", kwargs={"saga": "unknown"}).delay()
        assert "no saga named" in watch.until(result.id, "FAILURE").exception

    def test_a_step_that_waits_while_its_saga_is_cancelled(self, functional_site, canvas, watch):
        """Its message is not withdrawn; the worker drops it when its turn comes."""
        held = [canvas.holding.delay(hold=["a/f"]) for _ in range(2)]
        for each in held:  # both processes of the worker
            functional_site.journal.wait(each.id, "began")
        late = canvas.holding.delay()
        watch.until(f"{late.id}~f0~1", "RECEIVED")
        assert late.cancel()
        for each in held:
            functional_site.journal.open(each.id, "a/f")

        watch.until(f"{late.id}~f0~1", "REVOKED")
        assert late.status.value == "COMPENSATED"
        assert functional_site.journal.began(late.id) == []


class TestTwoMessagesOfOneTask:
    """They share a row."""

    def dropped(self, functional_site, saga_id):
        (worker,) = functional_site.workers
        return f"saga {saga_id}: claimed delivery of f0~1 dropped" in worker.text()

    def test_the_second_comes_while_the_first_runs(self, functional_site, canvas, watch):
        result = canvas.holding.delay(hold=["a/f"])
        functional_site.journal.wait(result.id, "began")
        task_id = f"{result.id}~f0~1"
        send_again(canvas, result.id)
        wait_for(lambda: self.dropped(functional_site, result.id))
        # Another task's end is reported by the same worker after this one's.
        canvas.context.delay(1).get(timeout=30)
        assert watch.of(task_id) == ["task-received", "task-started"] * 2
        assert watch.row(task_id).state == "STARTED"

        functional_site.journal.open(result.id, "a/f")
        result.get(timeout=30)
        watch.until(task_id, "SUCCESS")

    def test_the_second_comes_when_the_first_is_over(self, functional_site, canvas, watch):
        result = canvas.holding.delay(hold=["a/f"])
        functional_site.journal.wait(result.id, "began")
        task_id = f"{result.id}~f0~1"
        # It is made while the step is on its way, and sent later.
        orchestrator = manager_of(canvas)._runtime.orchestrator
        execution = orchestrator.load(result.id)
        copy = orchestrator.publisher.message(execution, Dispatch(execution.ref(0)))
        functional_site.journal.open(result.id, "a/f")
        result.get(timeout=30)
        watch.until(task_id, "SUCCESS")

        orchestrator.publisher.publish(copy)
        wait_for(lambda: watch.of(task_id)[-1] == "task-revoked")
        assert watch.row(task_id).state == "SUCCESS"
        assert watch.row(task_id).result is not None


class TestLinks:
    def links(self, watch, saga_id):
        rows = watch.rows(saga_id)
        assert watch.dead_links(saga_id) == []
        return {row.root_id for row in rows.values()}, {
            ref: (row.parent_id or "").removeprefix(f"{saga_id}~") for ref, row in rows.items()
        }

    def seen(self, watch, saga_id, count):
        over = ("SUCCESS", "FAILURE")
        wait_for(
            lambda: [row.state in over for row in watch.rows(saga_id).values()] == [True] * count,
            description=f"{count} tasks of {saga_id} that are over: {watch.rows(saga_id)}",
        )

    def test_of_a_saga_that_a_web_process_starts(self, canvas, watch):
        result = canvas.counting.delay(n=1, limit=0)
        result.get(timeout=30, propagate=False)
        self.seen(watch, result.id, 5)

        roots, parents = self.links(watch, result.id)
        assert roots == {f"{result.id}~f0~1"}
        assert parents == {
            "f0~1": "", "f1~1": "f0~1", "f2~1": "f1~1", "c1~2": "f1~1", "c0~2": "f0~1",
        }  # fmt: skip

    def test_of_a_saga_that_a_task_starts(self, canvas, watch):
        outer = canvas.start.delay(1)
        saga_id = outer.get(timeout=30)
        watch.until(outer.id, "SUCCESS")
        self.seen(watch, saga_id, 3)

        roots, parents = self.links(watch, saga_id)
        assert roots == {outer.id}
        assert parents == {"f0~1": outer.id, "f1~1": "f0~1", "f2~1": "f1~1"}

    def test_of_a_saga_that_a_message_starts(self, canvas, watch):
        result = canvas.counting.s(n=1).apply_async()
        result.get(timeout=30)
        self.seen(watch, result.id, 3)

        roots, parents = self.links(watch, result.id)
        assert roots == {result.id}
        assert parents["f0~1"] == result.id

    def test_of_a_saga_in_a_chain(self, canvas, watch):
        last = chain(canvas.context.s({"n": 1}), canvas.counting.s(), canvas.context.s())()
        assert last.get(timeout=30) == {"n": 3}
        start = last.parent
        root = start.parent.id
        watch.until(last.id, "SUCCESS")
        self.seen(watch, start.id, 3)

        roots, parents = self.links(watch, start.id)
        assert roots == {root}
        assert parents["f0~1"] == start.id
        assert (watch.row(start.id).root_id, watch.row(start.id).parent_id) == (root, root)
        assert (watch.row(last.id).root_id, watch.row(last.id).parent_id) == (root, start.id)

    def test_of_the_second_attempt_of_a_compensation(self, canvas, watch):
        result = canvas.stubborn.delay(n=1, limit=0)
        result.get(timeout=30, propagate=False)
        assert result.status.value == "STUCK"
        self.seen(watch, result.id, 4)

        _, parents = self.links(watch, result.id)
        assert (parents["c0~2"], parents["c0~3"]) == ("f0~1", "f0~1")


class TestArguments:
    def test_a_step_is_found_by_the_name_and_the_id_of_its_saga(self, canvas, watch):
        result = canvas.counting.delay(n=1)
        result.get(timeout=30)
        shown = ast.literal_eval(watch.until(f"{result.id}~f0~1", "SUCCESS").kwargs)
        assert list(shown)[:3] == ["saga", "saga_id", "step"]
        assert shown == {"saga": "canvas counting", "saga_id": result.id, "step": "first", "n": 1}

    def test_the_start_shows_no_secret_of_the_result_before_it(self, canvas, watch):
        secret = {"n": 1, "api_token": "s3cr3t"}
        result = chain(canvas.context.s(secret), canvas.counting.s(password="hunter2"))()
        assert result.get(timeout=30)["api_token"] == "s3cr3t"
        row = watch.until(result.id, "SUCCESS")
        assert row.args == "(<SagaContext>,)"
        assert ast.literal_eval(row.kwargs) == {
            "saga": "canvas counting",
            "context": "<SagaContext>",
        }

    def test_nor_what_the_api_of_a_monitor_gave_it(self, canvas, watch):
        """Flower's ``/api/task/async-apply/celery_saga.start`` calls the task so."""
        start = canvas.app.tasks["celery_saga.start"]
        given = {"saga": "canvas counting", "context": {"n": 1, "api_token": "s3cr3t"}}
        result = start.apply_async(args=[], kwargs=given)
        assert result.get(timeout=30)["n"] == 3
        row = watch.until(result.id, "SUCCESS")
        assert "s3cr3t" not in f"{row.args} {row.kwargs}"
        assert ast.literal_eval(row.kwargs)["saga"] == "canvas counting"
