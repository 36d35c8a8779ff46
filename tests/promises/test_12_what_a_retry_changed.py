"""A retry's message that is lost comes again as the retry made it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from celery_saga import Saga
from tests.helpers import wait_for
from tests.worker.apps.steps import fetch

pytestmark = pytest.mark.worker


def message(raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(raw)
    found["body"] = json.loads(base64.b64decode(found["body"]))
    return found


def next_message(site: Any, queue: str) -> dict[str, Any]:
    """Take the message from an unconsumed queue; a priority is part of its key."""

    def taken() -> bytes | None:
        for key in site.client.scan_iter(f"{queue}*"):
            raw: Any = site.client.lpop(key)
            if raw:
                return bytes(raw)
        return None

    return message(wait_for(taken, 30))


SAID: dict[str, dict[str, Any]] = {
    "queue": {},
    "arguments": {"kwargs": {"page": 2, "options": {}}},
    "positional arguments": {"args": [2], "kwargs": {"options": {}}},
    "priority and limits": {"priority": 6, "time_limit": 600, "soft_time_limit": 500},
}


@pytest.mark.parametrize("said", SAID)
def test_it_is_sent_again_as_it_was(shared, said):
    saga = Saga("retried", app=shared.app, steps=[fetch]).commit()
    queue = f"slow {said}"
    result = saga.delay(page=1, options={"queue": queue, **SAID[said]})

    lost = next_message(shared, queue)
    again = next_message(shared, queue)

    for part in ("id", "retries", "timelimit", "saga", "root_id"):
        assert again["headers"][part] == lost["headers"][part], part
    assert again["body"] == lost["body"]
    assert again["properties"]["priority"] == lost["properties"]["priority"]
    assert result.cancel()  # no worker consumes that queue
    assert shared.settled(result) == "COMPENSATED"


def test_a_rerun_after_a_killed_process_has_them(shared):
    saga = Saga("retried-killed", app=shared.app, steps=[fetch]).commit()
    given = {"kwargs": {"page": 2, "options": {}, "hold": True}}
    result = saga.delay(page=1, options=given)
    shared.kill_child(shared.journal.wait(result.id, "began", count=2))

    shared.journal.wait(result.id, "began", count=3)
    shared.journal.open(result.id, "fetch")

    assert shared.settled(result) == "COMPLETED"
    assert [line["page"] for line in shared.journal.said(result.id, "began")] == [1, 2, 2]
