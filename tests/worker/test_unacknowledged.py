"""Messages that a Redis broker lost, or gave to a worker that died before its next heartbeat.

Such a broker does not send them again before its visibility timeout, or never, and while others
wait in the queue, they may be among them: only the broker's own records show it.
"""

from __future__ import annotations

import pytest

from celery_saga.messaging import broker
from celery_saga.messaging.broker import backlog
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late, nap

pytestmark = pytest.mark.worker


def test_they_are_sent_again_although_the_queue_is_not_empty(site):
    killed = site.worker("-c", "1", saga_heartbeat=8, saga_heartbeat_ttl=9)
    busy = site.app.send_task(nap.name, (600,))
    wait_for(lambda: busy.id in killed.text())
    results = [site.saga(("a", late, compensation), ("b", late)).delay() for _ in range(3)]
    messages = {f"{result.id}~f0~1" for result in results}
    # A queue that is empty does not do: for a moment the last message is in no book.
    wait_for(lambda: messages <= {*backlog(site.app, []).unacknowledged.values()})
    killed.kill()
    for _ in range(30):
        site.app.send_task(nap.name, (0.7,))

    site.worker("-c", "1")

    for result in results:
        wait_for(lambda r=result: r.execution.steps[0].republished or r.ready(), 30)
    assert site.queued() > 0
    site.worker("-c", "12")
    for result in results:
        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id) == ["a/f", "b/f"]


def test_those_of_live_workers_are_theirs(site):
    """Their heartbeats say so, however long the messages wait there."""
    site.worker("-c", "1")
    held = site.saga(("busy", late)).delay(hold=["busy/f"])
    site.journal.wait(held.id, "began")
    results = [site.saga(("a", late, compensation)).delay() for _ in range(3)]
    wait_for(lambda: site.queued() == 0, description="the worker has all messages")
    for _ in range(30):
        site.app.send_task(nap.name, (0,))

    site.pass_time(9)
    site.journal.open(held.id, "busy/f")

    for result in results:
        assert site.settled(result) == "COMPLETED"
        assert result.execution.steps[0].republished == 0


def test_those_that_are_nowhere_are_sent_again_although_the_queue_is_not_empty(site):
    for _ in range(60):
        site.app.send_task(nap.name, (0.7,))
    result = site.saga(("a", late, compensation), ("b", late)).delay()
    assert f"{result.id}~f0~1".encode() in site.client.lpop("celery")

    site.worker("-c", "1")

    wait_for(lambda: result.execution.steps[0].republished, 20)
    assert site.queued() > 0
    site.worker("-c", "12")
    assert site.settled(result) == "COMPLETED"
    assert site.journal.began(result.id) == ["a/f", "b/f"]


def test_what_waits_in_a_queue(site, monkeypatch):
    def waiting() -> object:
        return backlog(site.app, ["celery", "no such queue"]).waiting

    assert waiting() == {}
    result = site.saga(("a", late)).delay()
    tasks = [site.app.send_task(nap.name, (0,), priority=priority) for priority in (0, 9)]
    assert waiting() == {"celery": {f"{result.id}~f0~1", *(task.id for task in tasks)}}
    for limit, few in (("LIMIT", 2), ("LIMIT_BYTES", 2_000)):
        with monkeypatch.context() as patch:
            patch.setattr(broker, limit, few)
            assert waiting() == {}, limit
    other = site.new_app("other", task_routes=(lambda *args, **options: None,))
    assert backlog(other, ["celery"]).waiting.keys() == {"celery"}, "of those a step names itself"


def test_a_message_that_cannot_be_read_may_be_any(site):
    site.app.send_task(nap.name, (0,))
    site.client.lpush("celery", '{"body": "of another protocol"}')
    assert backlog(site.app, ["celery"]).waiting == {}


def test_the_brokers_books(site):
    def unacknowledged() -> list[str]:
        return sorted(backlog(site.app, []).unacknowledged.values())

    soon = {"saga_heartbeat": 1e-6}
    site.app.conf.update(soon)
    assert unacknowledged() == []
    result = site.saga(("a", late)).delay(hold=["a/f"])
    plain = site.app.send_task(nap.name, (0.1,))
    assert backlog(site.app, ["celery", "no such queue"]).empty == {"no such queue"}
    site.worker("-c", "1")
    site.journal.wait(result.id, "began")
    wait_for(lambda: backlog(site.app, ["celery"]).empty == {"celery"})

    wait_for(lambda: unacknowledged() == sorted([f"{result.id}~f0~1", plain.id]))
    site.app.conf.update(saga_heartbeat=3600, saga_heartbeat_ttl=7200)
    assert unacknowledged() == []

    site.app.conf.update(soon)
    site.journal.open(result.id, "a/f")
    wait_for(lambda: unacknowledged() == [])
