"""Messages that are taken and never claimed, or that reach no queue: they come to an end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from celery_saga import Saga, SagaResult
from celery_saga.core.events import MessageState
from celery_saga.core.execution import Direction, StepRef
from celery_saga.messaging.broker import lacks_exchange
from celery_saga.messaging.inspection import workers_without_plugin
from celery_saga.runtime import runtime_of
from celery_saga.testing.embedded import EmbeddedValkey
from tests.worker.apps import strange_steps as tasks
from tests.worker.apps.steps import compensation, late
from tests.worker.harness import Site, Worker
from tests.worker.stage import expect_no_leftovers

pytestmark = [pytest.mark.worker, pytest.mark.timeout(120)]

DONE, COMPENSATED, STUCK = "COMPLETED", "COMPENSATED", "STUCK"

#: A queue that only a worker consumes which does not know of sagas.
OLD = {"queue": "old"}


class Fleet(NamedTuple):
    site: Site
    new: Worker
    old: Worker
    results: dict[str, SagaResult]


def start(site: Site, name: str) -> SagaResult:
    """A saga of ``a`` and ``b``, one of which no worker claims; all of them at once."""
    saga = Saga(f"unclaimed {name}", app=site.app)
    saga.local_step(late, name="a").on_failure(compensation)
    if name == "a step":
        saga.local_step(tasks.counted, name="b", **OLD).on_failure(compensation, queue="celery")
    elif name == "a step without compensation":
        saga.local_step(tasks.counted, name="b", **OLD)
    elif name == "a compensation":
        saga.local_step(late, name="b").on_failure(tasks.counted, **OLD)
        saga.local_step(late, name="c")
    elif name == "nothing is sent":
        saga.local_step(tasks.silent, name="b").on_failure(compensation)
    elif name == "nothing is sent of a compensation":
        saga.local_step(late, name="b").on_failure(tasks.silent)
        saga.local_step(late, name="c")
    return saga.commit().delay(key=name, fail=["c/f"])


ROWS = {
    "a step": (COMPENSATED, "UNKNOWN->COMPENSATED", "NeverClaimed", ["a/f", "b/c", "a/c"]),
    "a step without compensation": (STUCK, "UNKNOWN", "NeverClaimed", ["a/f", "a/c"]),
    "a compensation": (
        STUCK,
        "COMPENSATION_FAILED",
        "NeverClaimed",
        ["a/f", "b/f", "c/f", "a/c"],
    ),
    "nothing is sent": (STUCK, "FAILED", "NotSent", ["a/f"]),
    "nothing is sent of a compensation": (
        STUCK,
        "COMPENSATION_FAILED",
        "NotSent",
        ["a/f", "b/f", "c/f", "a/c"],
    ),
}


@pytest.fixture(scope="module")
def fleet(journal, folder) -> Iterator[Fleet]:
    with EmbeddedValkey() as server:
        site = Site(server.url(), journal, folder)
        site.app.conf.saga_max_redeliveries = 0  # sent three times in all
        try:
            new = site.start("-I", tasks.__name__)
            old = site.start("-Q", "old", app="tests.worker.apps.strange")
            for worker in (new, old):
                worker.wait_until_ready()
            results = {name: start(site, name) for name in ROWS}
            yield Fleet(site, new, old, results)
            expect_no_leftovers(site)
        finally:
            site.close()


@pytest.mark.parametrize("name", ROWS)
def test_it_comes_to_an_end(fleet: Fleet, name: str) -> None:
    result = fleet.results[name]
    status, step_status, error, bodies = ROWS[name]
    assert fleet.site.settled(result, 60) == status
    step = result.execution.steps[1]
    assert step.status == step_status.rpartition(">")[2]
    found = step.compensation_error if status == STUCK and step.compensation_error else step.error
    assert found is not None
    assert found.type == error
    assert fleet.site.journal.began(result.id) == bodies


@pytest.mark.parametrize("name", ["a step", "a step without compensation", "a compensation"])
def test_the_worker_without_the_plugin_ran_it_as_often_as_it_was_sent(
    fleet: Fleet, name: str
) -> None:
    fleet.site.settled(fleet.results[name], 60)
    assert int(fleet.site.client.get(f"celery-count:{name}") or 0) == 3  # type: ignore[arg-type]


def test_it_is_reported(fleet: Fleet) -> None:
    """With task, queue and worker; and one alert names the worker."""
    result = fleet.results["a step"]
    fleet.site.settled(result, 60)
    lines = [line for line in fleet.new.text().splitlines() if result.id in line]
    (recorded,) = [line for line in lines if "is sent again, time 2" in line]
    assert "WARNING" in recorded
    assert f"task {tasks.counted.name} of step 'b'" in recorded
    assert f"(queue: old; worker: {fleet.old.name})" in recorded
    assert not [line for line in lines if "is sent again, time 1" in line]
    alerts = [line for line in fleet.new.text().splitlines() if "saga-foreign-worker" in line]
    assert alerts
    assert all(f"worker {fleet.old.name} consumes queue 'old'" in line for line in alerts)


def test_a_message_that_reaches_no_queue_is_reported(fleet: Fleet) -> None:
    result = fleet.results["nothing is sent"]
    fleet.site.settled(result, 60)
    recorded = [line for line in fleet.new.text().splitlines() if f"saga {result.id}: task" in line]
    assert any("it is not routed to a queue (queue: celery" in line for line in recorded)


def test_the_workers_without_the_plugin_of_a_queue(fleet: Fleet) -> None:
    app = fleet.site.app
    assert workers_without_plugin(app, {"old": 1, "celery": 2}) == {"old": {fleet.old.name}}
    assert workers_without_plugin(app, ["no such queue"]) == {}


def test_an_exchange_that_is_not_declared(site: Site) -> None:
    """On a Redis broker it is found out whenever a message is made."""
    site.app.conf.task_routes = {tasks.routed.name: {"exchange": "undeclared", "routing_key": "x"}}
    saga = Saga("nowhere", app=site.app)
    saga.local_step(tasks.routed, name="a")
    saga.local_step(late, name="b")
    result = saga.commit().delay()
    runtime = runtime_of(site.app)
    inspector = runtime.inspector(runtime.orchestrator)
    ref = StepRef((0,), Direction.FORWARD, 1)

    assert inspector.not_sent(result.execution, ref) is MessageState.NOWHERE
    found = site.saga(("a", late)).delay()
    assert inspector.not_sent(found.execution, ref) is None
    assert not lacks_exchange(site.app, "undeclared"), "of this broker one cannot ask that"
