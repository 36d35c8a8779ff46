"""A worker with ``-E`` sends events of sagas from its pool processes and from its main process."""

from __future__ import annotations

import pytest

from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late
from tests.worker.harness import Site
from tests.worker.watching import Watch, watching

pytestmark = pytest.mark.worker


def types(watch: Watch, saga_id: str) -> list[str]:
    return [each["type"] for each in list(watch.events) if each.get("saga_id") == saga_id]


def test_events_of_a_rollback_come_from_the_workers_processes(site: Site) -> None:
    worker = site.start("-E", "-c", "1")
    saga = site.saga(("a", late, compensation), ("b", late, compensation), name="sends")
    with watching(site.app) as watch:
        result = saga.delay(fail=["b/f"])
        wait_for(lambda: "saga-compensated" in types(watch, result.id))
    assert types(watch, result.id) == [
        "saga-step-succeeded",
        "saga-step-failed",
        "saga-compensating",
        "saga-compensated",
    ]
    assert {each["hostname"] for each in watch.events if "saga_id" in each} == {worker.name}


def test_a_worker_without_e_sends_none(site: Site) -> None:
    site.start("-c", "1")
    saga = site.saga(("a", late, compensation), name="silent")
    with watching(site.app) as watch:
        saga.delay().get(timeout=30)
        beats = sum(each["type"] == "worker-heartbeat" for each in watch.events)
        wait_for(lambda: sum(e["type"] == "worker-heartbeat" for e in watch.events) > beats + 1)
    assert not [each for each in watch.events if each["type"].startswith("saga-")]
