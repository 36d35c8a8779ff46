"""Killed workers and children: the saga moves on, and no body runs more often than it must."""

from __future__ import annotations

import asyncio
import signal

import psutil
import pytest

from celery_saga import Saga, SagaManager
from tests.helpers import wait_for
from tests.worker.apps import crashing_steps
from tests.worker.apps.steps import compensation, early, late, nap, requeued

pytestmark = pytest.mark.worker


class TestKilledChild:
    def test_a_step_with_late_ack_is_rerun_with_the_same_key(self, shared):
        result = shared.saga(("a", late, compensation), ("b", late)).delay(hold=["a/f"])
        shared.kill_child(shared.journal.wait(result.id, "began"))

        shared.journal.wait(result.id, "began", 2)
        shared.journal.open(result.id, "a/f")

        assert shared.settled(result) == "COMPLETED"
        first, second, b = shared.journal.said(result.id, "began")
        assert (first["step"], second["step"], b["step"]) == ("a", "a", "b")
        assert first["idempotency_key"] == second["idempotency_key"] == f"{result.id}/a/f/0"
        assert (first["attempt"], second["attempt"]) == (1, 2)

    def test_a_step_that_the_broker_requeues_is_rerun_once_and_not_twice(self, shared):
        result = shared.saga(("a", requeued, compensation)).delay(hold=["a/f"])
        shared.kill_child(shared.journal.wait(result.id, "began"))

        shared.journal.wait(result.id, "began", 2)
        shared.journal.open(result.id, "a/f")

        assert shared.settled(result) == "COMPLETED"
        assert shared.journal.began(result.id) == ["a/f", "a/f"]

    def test_a_step_with_early_ack_is_compensated(self, shared):
        result = shared.saga(
            ("a", late, compensation), ("b", early, compensation), ("c", late)
        ).delay(hold=["b/f"])
        shared.kill_child(shared.journal.wait(result.id, "began", 2))

        assert shared.settled(result) == "COMPENSATED"
        assert shared.journal.began(result.id) == ["a/f", "b/f", "b/c", "a/c"]
        compensated = shared.journal.said(result.id, "began")[2]
        assert compensated["forward_key"] == f"{result.id}/b/f/0"

    def test_a_read_only_step_is_rerun_whatever_its_ack(self, shared):
        saga = Saga("reads", app=shared.app)
        saga.local_step(late, name="a").on_failure(compensation)
        saga.local_step(early, name="b", read_only=True)
        result = saga.commit().delay(hold=["b/f"])
        shared.kill_child(shared.journal.wait(result.id, "began", 2))

        shared.journal.wait(result.id, "began", 3)
        shared.journal.open(result.id, "b/f")

        assert shared.settled(result) == "COMPLETED"
        assert shared.journal.began(result.id) == ["a/f", "b/f", "b/f"]

    def test_a_compensation_is_rerun_with_the_same_key(self, shared):
        result = shared.saga(("a", late, compensation), ("b", late)).delay(
            hold=["a/c"], fail=["b/f"]
        )
        shared.kill_child(shared.journal.wait(result.id, "began", 3))

        shared.journal.wait(result.id, "began", 4)
        shared.journal.open(result.id, "a/c")

        assert shared.settled(result) == "COMPENSATED"
        keys = [line["idempotency_key"] for line in shared.journal.said(result.id, "began")]
        assert keys[2] == keys[3] == f"{result.id}/a/c/0"
        assert len(keys) == 4

    @pytest.mark.parametrize("task", [crashing_steps.late, crashing_steps.early])
    def test_a_retry_that_runs_already_keeps_its_claim(self, site, task):
        """The loss of the attempt before it is found out only now, and means another claim."""
        worker = site.worker("-c", "2", app="tests.worker.apps.lingering")
        saga = site.saga(("a", task, crashing_steps.compensation))
        result = saga.delay(once={"a/f": "retry"}, hold=["a/f"])
        site.journal.wait(result.id, "began")
        site.journal.open(result.id, "a/f")
        site.journal.wait(result.id, "began", 2)
        claim = result.execution.steps[0].claim

        site.journal.open(result.id, "linger")
        wait_for(lambda: "WorkerLostError" in worker.text())
        site.pass_time(2)

        assert result.execution.steps[0].claim == claim
        site.journal.open(result.id, "a/f")
        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == ["a/f", "a/f"]

    def test_a_step_whose_children_all_die_is_not_repeated_and_compensated(self, shared):
        saga = Saga("not repeated", app=shared.new_app(saga_max_redeliveries=1))
        saga.local_step(late, name="a").on_failure(compensation)
        result = saga.commit().delay(hold=["a/f"])

        shared.kill_child(shared.journal.wait(result.id, "began", 1))
        shared.kill_child(shared.journal.wait(result.id, "began", 2))

        assert shared.settled(result) == "COMPENSATED"
        assert shared.journal.began(result.id) == ["a/f", "a/f", "a/c"]


class TestKilledWorker:
    """With another worker that is alive already: test_failure_table_workers.py."""

    def run(self, site, successor, result, count):
        """Kill the worker that began the ``count``th body; another one takes over."""
        line = site.journal.wait(result.id, "began", count)
        killed, other = self.pair(site, line)
        killed.kill()
        if successor == "started after":
            other.kill()
            site.worker("-Q", "celery,first,second")

    def pair(self, site, line):
        def children(worker):
            return {child.pid for child in psutil.Process(worker.process.pid).children()}

        one, two = site.workers
        return (one, two) if line["pid"] in children(one) else (two, one)

    def two_workers(self, site):
        """Each with a queue of its own beside the one of both."""
        queues = ("celery,first", "celery,second")
        for worker in [site.start("-c", "1", "-Q", names) for names in queues]:
            worker.wait_until_ready()

    @pytest.mark.parametrize("successor", ["started after"])
    def test_mid_step_with_late_ack(self, site, successor):
        self.two_workers(site)
        result = site.saga(("a", late, compensation), ("b", late)).delay(hold=["a/f"])
        self.run(site, successor, result, 1)

        site.journal.wait(result.id, "began", 2)
        site.journal.open(result.id, "a/f")

        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == ["a/f", "a/f", "b/f"]

    @pytest.mark.parametrize("successor", ["started after"])
    def test_mid_step_with_early_ack(self, site, successor):
        self.two_workers(site)
        result = site.saga(("a", early, compensation), ("b", late)).delay(hold=["a/f"])
        self.run(site, successor, result, 1)

        assert site.settled(result) == "COMPENSATED"
        assert site.journal.began(result.id) == ["a/f", "a/c"]

    @pytest.mark.parametrize("successor", ["started after"])
    def test_mid_compensation(self, site, successor):
        self.two_workers(site)
        result = site.saga(("a", early, compensation), ("b", late)).delay(
            fail=["b/f"], hold=["a/c"]
        )
        self.run(site, successor, result, 3)

        site.journal.wait(result.id, "began", 4)
        site.journal.open(result.id, "a/c")

        assert site.settled(result) == "COMPENSATED"
        assert site.journal.began(result.id) == ["a/f", "b/f", "a/c", "a/c"]

    @pytest.mark.parametrize("successor", ["alive before", "started after"])
    def test_between_steps(self, site, successor):
        """The worker dies with a message that it has received and not started."""
        self.two_workers(site)
        held = []
        for queue in ("first", "second"):  # no worker is to take both
            saga = Saga("held", app=site.app)
            saga.local_step(late, name="a", queue=queue)
            held.append(saga.commit().delay(hold=["a/f"]))
        for result in held:
            site.journal.wait(result.id, "began")
        results = [site.saga(("a", late), ("b", late)).delay() for _ in range(4)]
        wait_for(lambda: site.queued() == 0, description="all messages are with workers")

        self.run(site, successor, held[0], 1)
        for queue in ("first", "second"):
            site.app.control.add_consumer(queue)
        for result in held:
            site.journal.open(result.id, "a/f", 2)

        for result in [*held, *results]:
            assert site.settled(result) == "COMPLETED"
        for result in results:
            assert site.journal.began(result.id) == ["a/f", "b/f"]


class TestBusyQueue:
    """Other messages wait behind the one that is lost, so its queue is not seen to be empty."""

    def test_a_message_that_the_killed_worker_had_just_taken(self, site):
        """Its last heartbeat did not report it."""
        other = site.worker("-Q", "elsewhere")
        target = site.worker(
            "-c", "1", "--prefetch-multiplier", "2", saga_heartbeat=4, saga_heartbeat_ttl=12
        )
        busy = site.saga(("a", late)).delay(hold=["a/f"])
        site.journal.wait(busy.id, "began")
        self.beat(site, busy)
        result = site.saga(("a", late)).delay()
        wait_for(lambda: site.queued() == 0, description="the target has the message")
        for _ in range(3):
            site.app.send_task(nap.name, (0,))
        target.kill()

        wait_for(lambda: result.execution.steps[0].republished == 1, timeout=40)
        assert site.queued() > 3
        site.app.control.add_consumer("celery", destination=[other.name])
        site.journal.open(busy.id, "a/f", 2)
        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == ["a/f"]
        assert site.settled(busy) == "COMPLETED"

    def beat(self, site, result):
        """Wait for a heartbeat of the worker that runs the first step."""
        instance = result.execution.steps[0].claim.instance
        last = site.client.zscore("saga:instances", instance)
        wait_for(lambda: site.client.zscore("saga:instances", instance) != last)


class TestShutdown:
    def test_a_warm_shutdown_mid_step_loses_nothing_and_reruns_nothing(self, site):
        worker = site.worker()
        result = site.saga(("a", late, compensation), ("b", early)).delay(hold=["a/f"])
        site.journal.wait(result.id, "began")
        worker.signal(signal.SIGTERM)
        wait_for(lambda: "Warm shutdown" in worker.text())
        other = site.worker()

        beats = site.client.zscore("saga:instances", self.newest(site))
        wait_for(lambda: site.client.zscore("saga:instances", self.newest(site)) > beats + 2)
        site.journal.open(result.id, "a/f")

        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == ["a/f", "b/f"]
        wait_for(lambda: not worker.process.alive)
        assert worker.process.returncode == 0
        assert other.process.alive

    def newest(self, site):
        return site.client.zrange("saga:instances", -1, -1)[0]

    def test_a_worker_that_ends_in_good_order_takes_its_leave(self, site):
        worker = site.worker()
        wait_for(lambda: site.alive() == 1)

        worker.signal(signal.SIGTERM)
        wait_for(lambda: not worker.process.alive)

        assert site.alive() == 0

    @pytest.mark.parametrize(
        ("task", "status", "bodies"),
        [(late, "COMPLETED", ["a/f", "a/f"]), (early, "COMPENSATED", ["a/f", "a/c"])],
    )
    def test_a_cold_shutdown_mid_step_counts_as_a_lost_worker(self, site, task, status, bodies):
        worker = site.worker()
        result = site.saga(("a", task, compensation)).delay(hold=["a/f"])
        site.journal.wait(result.id, "began")
        worker.signal(signal.SIGQUIT)
        wait_for(lambda: not worker.process.alive)

        site.worker()
        site.journal.wait(result.id, "began", 2)
        site.journal.open(result.id, "a/f")

        assert site.settled(result) == status
        assert site.journal.began(result.id) == bodies


class TestDeleted:
    """A saga that an operator deleted while a step of it was running."""

    @pytest.mark.parametrize(
        ("fail", "says"), [([], "succeeded in"), (["a/f"], "raised unexpected: ValueError")]
    )
    def test_an_operator_is_alerted_of_an_effect_that_is_not_compensated(self, shared, fail, says):
        (worker,) = shared.workers
        before = len(worker.text())
        result = shared.saga(("a", late, compensation)).delay(hold=["a/f"], fail=fail)
        shared.journal.wait(result.id, "began")
        asyncio.run(SagaManager(shared.app).repository.delete(result.id))
        shared.journal.open(result.id, "a/f")

        wait_for(lambda: f"{result.id}~f0~1] {says}" in worker.text(), 20)

        text = worker.text()[before:]
        assert ("saga-orphan-effect" in text) is not bool(fail)
        assert "SagaExecutionNotFoundException" not in text
