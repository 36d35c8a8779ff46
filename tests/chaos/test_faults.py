"""One fault at a time, on servers and workers of the test's own."""

from __future__ import annotations

import json
import os
import signal
import threading
import uuid

import pytest
from celery.result import AsyncResult
from pytest_celery import ping

from tests.chaos.conftest import Setup
from tests.chaos.steps import compensate, declining, early, late, retrying
from tests.helpers import wait_for

pytestmark = pytest.mark.worker


def client_of(node):
    return node.container.client


def settled(site: Setup, result) -> bool:
    """Whether it is ready; restarts workers that Celery has ended because of their broker."""
    for worker in site.worker_cluster:
        if worker.container.status == "exited":
            worker.container.process.restart()
    return result.ready()


def test_the_nodes_are_pytest_celerys(celery_setup: Setup):
    """Its own checks and a plain task work on them as on containers."""
    assert celery_setup.ready(ping=True, control=True, docker=True)
    assert len(celery_setup) == 4
    assert ping.s().apply_async().get(timeout=10) == "pong"
    names = {worker.hostname() for worker in celery_setup.worker_cluster}
    inspect = celery_setup.app.control.inspect(timeout=3)
    wait_for(lambda: names == set(inspect.ping() or ()))
    celery_setup.worker.assert_log_exists("ready.")


class TestKilled:
    def test_a_worker_in_mid_step(self, celery_setup: Setup):
        """The other worker runs it again under the same key; the first one comes back."""
        site = celery_setup
        result = site.saga(("a", late, compensate), ("b", late)).delay(hold=["a/f"])
        killed = site.worker_of(site.journal.wait(result.id, "began"))
        killed.kill()
        assert killed.container.status == "exited"

        site.journal.wait(result.id, "began", 2)
        killed.restart()
        site.journal.open(result.id, "a/f")

        assert site.ends(result) == ("COMPLETED", ["a/f", "a/f", "b/f"])
        keys = [line["idempotency_key"] for line in site.journal.said(result.id, "began")[:2]]
        assert keys == [f"{result.id}/a/f/0"] * 2

    def test_all_workers(self, celery_setup: Setup):
        """No worker is left to notice; the one that starts again does."""
        site = celery_setup
        steps = [("a", early, compensate), ("b", early, compensate), ("c", late)]
        result = site.saga(*steps).delay(hold=["b/f"])
        site.journal.wait(result.id, "began", 2)
        for worker in site.worker_cluster:
            worker.kill()

        site.worker.restart()

        assert site.ends(result) == ("COMPENSATED", ["a/f", "b/f", "b/c", "a/c"])

    def test_a_child_in_mid_step(self, celery_setup: Setup):
        site = celery_setup
        result = site.saga(("a", late, compensate), ("b", late)).delay(hold=["a/f"])
        os.kill(site.journal.wait(result.id, "began")["pid"], signal.SIGKILL)

        site.journal.wait(result.id, "began", 2)
        site.journal.open(result.id, "a/f")

        assert site.ends(result) == ("COMPLETED", ["a/f", "a/f", "b/f"])

    def test_a_child_in_mid_compensation(self, celery_setup: Setup):
        site = celery_setup
        result = site.saga(("a", late, compensate), ("b", late)).delay(hold=["a/c"], fail=["b/f"])
        os.kill(site.journal.wait(result.id, "began", 3)["pid"], signal.SIGKILL)

        site.journal.wait(result.id, "began", 4)
        site.journal.open(result.id, "a/c")

        assert site.ends(result) == ("COMPENSATED", ["a/f", "b/f", "a/c", "a/c"])

    def test_under_a_participant_that_declines_what_it_did(self, celery_setup: Setup):
        """Its second attempt leaves nothing behind, but its first one did: it is compensated."""
        site = celery_setup
        saga = site.saga(("a", late, compensate), ("b", declining, compensate), ("c", late))
        result = saga.delay(hold=["b/f"])
        os.kill(site.journal.wait(result.id, "began", 2)["pid"], signal.SIGKILL)

        assert site.ends(result) == ("COMPENSATED", ["a/f", "b/f", "b/f", "b/c", "a/c"])

    def test_a_worker_with_many_sagas(self, celery_setup: Setup):
        """Parallel load: what the other worker runs meanwhile is not touched."""
        site = celery_setup
        saga = site.saga(("a", late, compensate), ("b", late, compensate), ("c", late))
        held = saga.delay(hold=["b/f"])
        others = [saga.delay(fail=["c/f"] if number % 3 == 0 else []) for number in range(30)]
        site.worker_of(site.journal.wait(held.id, "began", 2)).kill()
        site.journal.wait(held.id, "began", 3)
        site.journal.open(held.id, "b/f")

        assert site.ends(held) == ("COMPLETED", ["a/f", "b/f", "b/f", "c/f"])
        for number, result in enumerate(others):
            status, bodies = site.ends(result)
            assert status == ("COMPENSATED" if number % 3 == 0 else "COMPLETED")
            assert sorted(set(bodies), key=bodies.index) == (
                ["a/f", "b/f", "c/f", "b/c", "a/c"] if number % 3 == 0 else ["a/f", "b/f", "c/f"]
            )


class TestStopped:
    """SIGSTOP: nothing of the worker moves, until SIGCONT."""

    def stop(self, site: Setup, result):
        worker = site.worker_of(site.journal.wait(result.id, "began"))
        worker.kill("SIGSTOP")
        return worker

    def test_for_longer_than_it_may_be_silent(self, celery_setup: Setup):
        """Its step is compensated; then it reports its effect, and it is compensated again."""
        site = celery_setup
        result = site.saga(("a", early, compensate), ("b", late)).delay(hold=["a/f"])
        worker = self.stop(site, result)
        site.journal.open(result.id, "a/f")  # its body continues with the worker
        assert site.ends(result) == ("COMPENSATED", ["a/f", "a/c"])

        worker.kill("SIGCONT")
        site.journal.wait(result.id, "ended", 3)

        wait_for(lambda: site.ends(result) == ("COMPENSATED", ["a/f", "a/c", "a/c"]))
        first, second = site.journal.said(result.id, "began")[1:]
        assert first["forward_key"] == second["forward_key"] == f"{result.id}/a/f/0"
        assert first["idempotency_key"] != second["idempotency_key"]

    def test_for_longer_and_its_step_is_run_elsewhere(self, celery_setup: Setup):
        site = celery_setup
        result = site.saga(("a", late, compensate), ("b", late)).delay(hold=["a/f"])
        worker = self.stop(site, result)
        site.journal.wait(result.id, "began", 2)
        site.journal.open(result.id, "a/f", 2)
        assert site.ends(result) == ("COMPLETED", ["a/f", "a/f", "b/f"])

        worker.kill("SIGCONT")
        site.journal.wait(result.id, "ended", 3)

        worker.assert_log_exists("came too late")
        assert site.ends(result) == ("COMPLETED", ["a/f", "a/f", "b/f"])


@pytest.mark.parametrize("apart", [True, False], ids=["two servers", "one server"])
class TestServers:
    """SIGKILL, and a new start on the same append-only file."""

    def test_the_store_in_mid_step(self, celery_setup: Setup):
        """The body ends while the store is unavailable; its report waits."""
        site = celery_setup
        result = site.saga(("a", early, compensate), ("b", late)).delay(hold=["a/f"])
        site.journal.wait(result.id, "began")
        site.backend.kill()
        site.journal.open(result.id, "a/f")
        site.journal.wait(result.id, "ended")

        site.backend.restart()

        assert self.ends(site, result) == ("COMPLETED", ["a/f", "b/f"])

    def test_the_broker_in_mid_step(self, celery_setup: Setup):
        site = celery_setup
        result = site.saga(("a", late, compensate), ("b", late)).delay(hold=["a/f"])
        site.journal.wait(result.id, "began")
        site.broker.kill()
        site.journal.open(result.id, "a/f")
        site.journal.wait(result.id, "ended")

        site.broker.restart()

        assert self.ends(site, result) == ("COMPLETED", ["a/f", "b/f"])

    def test_with_messages_in_the_queue(self, celery_setup: Setup):
        site = celery_setup
        for worker in site.worker_cluster:
            worker.kill()
        saga = site.saga(("a", early, compensate), ("b", early, compensate))
        results = [saga.delay() for _ in range(5)]
        site.broker.kill()
        site.broker.restart()

        assert client_of(site.broker).llen("celery") == 5
        site.worker.restart()

        for result in results:
            assert site.ends(result) == ("COMPLETED", ["a/f", "b/f"])

    def test_a_start_while_the_broker_restarts(self, celery_setup: Setup, apart: bool):
        """With a store of its own the start is good, and sent later; else it may be repeated."""
        site = celery_setup
        saga, saga_id = site.saga(("a", early, compensate), ("b", late)), str(uuid.uuid4())
        site.broker.kill()
        started: list[object] = []

        def start() -> None:
            while not started:
                try:
                    started.append(saga.apply_async({}, saga_id=saga_id))
                except Exception as error:
                    errors.append(error)

        errors: list[Exception] = []
        client = threading.Thread(target=start)
        client.start()
        if apart:
            client.join(60)
            assert (len(started), errors) == (1, [])
        else:
            wait_for(lambda: errors, 60)
        site.broker.restart()
        client.join(60)

        assert {type(error).__name__ for error in errors} <= {"StoreUnavailable"}
        assert self.ends(site, started[0]) == ("COMPLETED", ["a/f", "b/f"])
        assert AsyncResult(saga_id, app=site.app).state == "SUCCESS"

    def ends(self, site: Setup, result):
        wait_for(lambda: settled(site, result), 60, interval=0.1)
        return site.ends(result)


def test_a_retry_while_the_broker_is_unavailable(celery_setup: Setup):
    """Celery drops such a task; the saga waits until its retry can be sent."""
    site = celery_setup
    result = site.saga(("a", retrying, compensate), ("b", late)).delay(hold=["a/f"])
    site.journal.wait(result.id, "began")
    site.broker.kill()
    site.journal.open(result.id, "a/f")
    wait_for(lambda: result.execution.steps[0].claim is None, 60)

    site.broker.restart()

    wait_for(lambda: settled(site, result), 60, interval=0.1)
    assert site.ends(result) == ("COMPLETED", ["a/f", "a/f", "b/f"])
    keys = {line["idempotency_key"] for line in site.journal.said(result.id, "began")[:2]}
    assert len(keys) == 1


class TestMessages:
    def test_duplicated(self, celery_setup: Setup):
        """A copy of what is on the list, put there while its step runs, and when it is over."""
        site = celery_setup
        for worker in site.worker_cluster:
            worker.kill()
        result = site.saga(("a", late, compensate), ("b", late)).delay(hold=["a/f"])
        queue = client_of(site.broker)
        raw = queue.lindex("celery", 0)
        queue.lpush("celery", raw)
        site.worker.restart()
        site.journal.wait(result.id, "began")
        site.worker.wait_for_log("claimed delivery", timeout=30)
        site.journal.open(result.id, "a/f")
        assert site.ends(result) == ("COMPLETED", ["a/f", "b/f"])

        queue.lpush("celery", raw)
        site.worker.wait_for_log("stale delivery", timeout=30)

        assert site.ends(result) == ("COMPLETED", ["a/f", "b/f"])
        assert json.loads(raw)["headers"]["id"] == f"{result.id}~f0~1"

    def test_lost(self, celery_setup: Setup):
        site = celery_setup
        for worker in site.worker_cluster:
            worker.kill()
        result = site.saga(("a", early, compensate), ("b", late)).delay()
        assert client_of(site.broker).rpop("celery")
        assert client_of(site.broker).llen("celery") == 0

        site.worker.restart()

        assert site.ends(result) == ("COMPLETED", ["a/f", "b/f"])
