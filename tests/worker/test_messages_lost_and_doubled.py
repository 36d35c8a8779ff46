"""What a broker, an operator or a deploy does to messages: the saga copes with all of it."""

from __future__ import annotations

import json
import os
import signal

import pytest

from celery_saga import Saga
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, early, late, nap

pytestmark = pytest.mark.worker


def beats(site, count):
    """Wait until every worker's heartbeat has beaten that often."""

    def scores():
        return dict(site.client.zrange("saga:instances", 0, -1, withscores=True))

    for _ in range(count):
        before = scores()
        wait_for(lambda old=before: all(at > old.get(who, 0) for who, at in scores().items()))


def test_a_lost_message_is_sent_again(site):
    result = site.saga(("a", late), ("b", early)).delay()
    assert site.client.lpop("celery") is not None

    site.worker()

    assert site.settled(result) == "COMPLETED"
    assert site.journal.began(result.id) == ["a/f", "b/f"]


@pytest.mark.parametrize("task", [late, early])
def test_a_message_that_arrives_twice_runs_its_body_once(site, task):
    result = site.saga(("a", task), ("b", task)).delay(hold=["a/f"])
    raw = site.client.lindex("celery", 0)
    worker = site.worker()
    site.journal.wait(result.id, "began")

    site.client.lpush("celery", raw)
    wait_for(lambda: worker.text().count("ignored") == 1 or "claimed delivery" in worker.text())
    site.journal.open(result.id, "a/f")
    assert site.settled(result) == "COMPLETED"
    site.client.lpush("celery", raw)
    wait_for(lambda: "stale delivery" in worker.text())

    assert site.journal.began(result.id) == ["a/f", "b/f"]


def test_a_duplicate_at_the_same_worker_does_not_cost_the_running_step_its_claim(site):
    result = site.saga(("a", late, compensation)).delay(hold=["a/f"])
    raw = site.client.lindex("celery", 0)
    worker = site.worker()
    site.journal.wait(result.id, "began")

    site.client.lpush("celery", raw)
    wait_for(lambda: "claimed delivery" in worker.text())
    beats(site, 5)
    site.journal.open(result.id, "a/f")

    assert site.settled(result) == "COMPLETED"
    assert site.journal.began(result.id) == ["a/f"]
    assert result.execution.steps[0].lost == 0


def test_a_step_on_a_live_worker_is_never_rerun_however_long_it_runs(site):
    site.worker()
    site.worker()
    result = site.saga(("a", late, compensation)).delay(hold=["a/f"])
    site.journal.wait(result.id, "began")

    beats(site, 25)  # more than twice the time after which a silent worker counts as dead
    site.journal.open(result.id, "a/f")

    assert site.settled(result) == "COMPLETED"
    assert site.journal.began(result.id) == ["a/f"]


def test_a_step_that_is_revoked_before_it_starts_leaves_nothing_to_compensation(site):
    worker = site.worker("-c", "1")
    busy = site.saga(("busy", late)).delay(hold=["busy/f"])
    site.journal.wait(busy.id, "began")
    result = site.saga(("a", early, compensation)).delay()
    wait_for(lambda: site.queued() == 0)

    site.app.control.revoke(f"{result.id}~f0~1")
    wait_for(lambda: "flagged as revoked" in worker.text())
    site.journal.open(busy.id, "busy/f")

    assert site.settled(result) == "COMPENSATED"
    assert site.journal.began(result.id) == []
    assert result.execution.error.type == "celery.exceptions.TaskRevokedError"
    assert site.settled(busy) == "COMPLETED"


def test_a_step_that_is_revoked_while_it_runs_is_compensated(site):
    site.worker()
    result = site.saga(("a", early, compensation)).delay(hold=["a/f"])
    site.journal.wait(result.id, "began")

    site.app.control.revoke(f"{result.id}~f0~1", terminate=True, signal="SIGKILL")

    assert site.settled(result) == "COMPENSATED"
    assert site.journal.began(result.id) == ["a/f", "a/c"]
    assert result.execution.error.type == "celery.exceptions.TaskRevokedError"


def test_a_step_that_expired_fails_and_what_was_done_is_compensated(site):
    site.worker("-c", "1")
    saga = Saga("expiring", app=site.app)
    saga.local_step(late, name="a").on_failure(compensation)
    saga.local_step(late, name="b", expires=0.05).on_failure(compensation)
    result = saga.commit().delay(hold=["a/f"])
    site.journal.wait(result.id, "began")
    busy = site.saga(("busy", late)).delay(hold=["busy/f"])  # waits before b
    wait_for(lambda: site.queued() == 0)
    site.journal.open(result.id, "a/f")
    site.journal.wait(busy.id, "began")
    wait_for(lambda: site.client.time()[0] > result.execution.updated_at + 1)
    site.journal.open(busy.id, "busy/f")

    assert site.settled(result) == "COMPENSATED"
    assert site.journal.began(result.id) == ["a/f", "a/c"]
    assert "expired" in result.execution.error.message


def test_a_task_that_no_worker_knows_is_offered_until_one_does(site):
    old = site.worker()
    saga = Saga("deploy", app=site.app)
    saga.local_step(late, name="a").on_failure(compensation)
    saga.local_step("site.newcomer", name="b", inputs=[])
    result = saga.commit().delay()
    wait_for(lambda: "site.newcomer" in old.text() and "unregistered" in old.text())
    assert result.progress["b"] == "RUNNING"

    old.kill()
    site.worker(app="tests.worker.apps.deployed")

    assert site.settled(result) == "COMPLETED"
    assert site.journal.began(result.id) == ["a/f", "b/f"]


def test_a_task_that_never_becomes_known_makes_the_saga_stuck(site):
    site.worker()
    site.app.conf.saga_unknown_task_grace = 0
    saga = Saga("deploy", app=site.app)
    saga.local_step("site.unknown", name="a", inputs=[])
    result = saga.commit().delay()

    assert site.settled(result) == "STUCK"
    assert "no worker knows task 'site.unknown'" in result.execution.error.message


def test_a_backlog_is_not_a_loss(site):
    """Other tasks stand before the step in the queue for longer than the sweep is patient."""
    site.worker("-c", "1")
    for _ in range(8):
        site.app.send_task(nap.name, (0.7,))
    result = site.saga(("a", early, compensation), ("b", late)).delay()

    assert site.settled(result) == "COMPLETED"
    assert site.journal.began(result.id) == ["a/f", "b/f"]
    assert [step.republished for step in result.execution.steps] == [0, 0]


@pytest.mark.parametrize("task", [late, early])
def test_a_message_that_a_hanging_process_has_is_given_to_another(site, task):
    """The worker lives and reports the message, and its process never starts it."""
    site.worker("-c", "1", worker_prefetch_multiplier=1)
    before = site.saga(("a", task)).delay()
    assert site.settled(before) == "COMPLETED"
    pid = site.journal.of(before.id)[0]["pid"]
    wait_for(lambda: site.client.hlen("unacked") == 0)  # until then another one does not fit
    os.kill(pid, signal.SIGSTOP)
    try:
        result = site.saga(("a", task, compensation), ("b", task)).delay()
        wait_for(lambda: result.id in str(site.client.hvals("saga:reserved")))
        site.worker("-c", "1")

        assert site.settled(result, timeout=60) == "COMPLETED"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert site.journal.began(result.id) == ["a/f", "b/f"]


def test_an_old_message_does_not_run_for_a_new_saga_of_the_same_id(site):
    saga = site.saga(("a", late, compensation), ("b", early))
    old = saga.apply_async({"hold": ["a/f"]}, saga_id="order-7")
    copy = site.client.lindex("celery", 0)
    worker = site.worker("-c", "1")
    site.journal.open(old.id, "a/f")
    assert site.settled(old) == "COMPLETED"
    worker.kill()
    old.forget()

    new = saga.apply_async({}, saga_id="order-7")
    site.client.rpush("celery", copy)  # the first to be taken
    worker = site.worker("-c", "1")

    assert site.settled(new) == "COMPLETED"
    assert "stale delivery of f0~1 dropped" in worker.text()
    assert site.journal.began(new.id) == ["a/f", "b/f"] * 2


def test_the_caller_sees_what_the_message_carried(site):
    """The wire format that operators and other languages rely on."""
    result = site.saga(("a", late)).delay(hold=[], order_id=7)

    message = json.loads(site.client.lindex("celery", 0))

    headers = message["headers"]
    assert headers["id"] == f"{result.id}~f0~1"
    assert (headers["root_id"], headers["parent_id"]) == (headers["id"], None)
    assert headers["saga"] == {"plan": result.execution.plan.hash}
    assert headers["task"] == late.name
