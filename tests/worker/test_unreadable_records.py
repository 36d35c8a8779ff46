"""Only a saga whose record cannot be read does not continue: all others are recovered."""

from __future__ import annotations

import json

import pytest

from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, early, late

pytestmark = pytest.mark.worker

NEWER = json.dumps({"version": 99, "status": "RUNNING", "mood": "good"})


@pytest.mark.parametrize(
    ("head", "recorded"),
    [
        pytest.param(NEWER, "was saved with checkpoint version 99", id="newer"),
        pytest.param("{", "field 'head' of its record cannot be read", id="damaged"),
    ],
)
def test_a_claim_on_it_keeps_no_lost_message_of_another_from_being_sent(site, head, recorded):
    worker = site.worker("-c", "1", "--prefetch-multiplier", "1")
    bad = site.saga(("a", late, compensation)).delay(hold=["a/f"])
    body = site.journal.wait(bad.id, "began")
    key = f"saga:execution:{bad.id}"
    good_head = site.client.hget(key, "head")

    # Its process dies, and the worker, which sweeps, is left with a claim that it cannot check.
    site.client.hset(key, "head", head)
    site.kill_child(body)
    wait_for(lambda: f"saga {bad.id!r}" in worker.text() and recorded in worker.text())
    other = site.saga(("a", late), ("b", late), name="other").delay(hold=["a/f"])
    site.journal.wait(other.id, "began")
    waiting = site.saga(("a", late), name="waiting").delay()
    assert site.client.lpop("celery") is not None  # it waits there: the worker takes one at a time
    site.journal.open(other.id, "a/f")

    assert site.settled(waiting) == "COMPLETED"
    assert site.settled(other) == "COMPLETED"
    assert site.journal.began(waiting.id) == ["a/f"]
    assert site.journal.began(bad.id) == ["a/f"]
    assert site.client.smembers(f"saga:claims:{_instance(site, key)}"), "its claim is valid"

    site.client.hset(key, "head", good_head)
    site.worker()  # one of the newer version, or after the damage was mended
    worker.kill()
    site.journal.wait(bad.id, "began", 2)
    site.journal.open(bad.id, "a/f")
    assert site.settled(bad) == "COMPLETED"


def test_an_older_worker_begins_no_step_of_what_a_newer_version_saved(site):
    """During a roll-out the step is left to a worker that can read its saga."""
    result = site.saga(("a", early)).delay()  # if it counted as begun, it would get stuck
    key = f"saga:execution:{result.id}"
    good_head = site.client.hget(key, "head")
    site.client.hset(key, "head", NEWER)
    older = site.worker()
    wait_for(lambda: "the message of f0~1 is dropped" in older.text())
    assert site.client.hget(key, "k0") is None
    assert "Traceback" not in older.text()
    older.kill()

    site.client.hset(key, "head", good_head)
    site.worker()

    assert site.settled(result) == "COMPLETED"
    assert site.journal.began(result.id) == ["a/f"]
    assert result.execution.steps[0].lost == 0


def _instance(site, key):
    return json.loads(site.client.hget(key, "k0"))["instance"]
