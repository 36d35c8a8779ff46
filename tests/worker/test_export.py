"""A saga is taken out of one store and put into another: it ends there as it would have here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from celery_saga import Saga, SagaAlreadyExists, SagaExecution, SagaManager, SagaStatus
from celery_saga.testing.builders import found_by
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, early, late
from tests.worker.harness import Site

pytestmark = pytest.mark.worker


@pytest.fixture(scope="module")
def elsewhere(valkey, journal, folder) -> Iterator[Site]:
    """Another database with a broker, a store and a worker of its own."""
    found = Site(valkey.url(14), journal, folder)
    found.worker()
    try:
        yield found
    finally:
        found.close()


def exported(result) -> str:
    return json.dumps(result.execution.raw)


def put_into(site, text: str):
    manager = SagaManager(site.app)
    execution = SagaExecution.from_raw(json.loads(text))
    asyncio.run(manager.repository.store(execution))
    return manager.get(execution.saga_id)


def moved(result, site, elsewhere):
    """The saga, no longer here but there."""
    text = exported(result)
    asyncio.run(SagaManager(site.app).repository.delete(result.id))
    return put_into(elsewhere, text)


def test_a_saga_whose_message_no_worker_received(site, elsewhere):
    result = site.saga(("a", late, compensation), ("b", late)).delay(fail=["b/f"])
    there = moved(result, site, elsewhere)

    assert elsewhere.settled(there) == "COMPENSATED"
    assert site.journal.began(there.id) == ["a/f", "b/f", "a/c"]


@pytest.mark.parametrize(
    ("task", "status", "began"),
    [
        (late, "COMPLETED", ["a/f", "b/f", "b/f"]),
        (early, "COMPENSATED", ["a/f", "b/f", "b/c", "a/c"]),
    ],
    ids=["rerun", "compensated"],
)
def test_a_saga_whose_step_was_running(site, elsewhere, task, status, began):
    """Its outcome is unknown: the plan says what to do, as if the worker had died."""
    worker = site.worker()
    result = site.saga(("a", late, compensation), ("b", task, compensation)).delay(hold=["b/f"])
    site.journal.wait(result.id, "began", 2)
    worker.kill()
    there = moved(result, site, elsewhere)
    site.client.flushdb()  # no worker is left there that would reclaim its claims

    assert not any(step.claim for step in there.execution.steps)
    site.journal.open(result.id, "b/f")
    assert elsewhere.settled(there) == status
    assert site.journal.began(there.id) == began


def test_a_saga_that_waits_for_its_time(site, elsewhere):
    result = site.saga(("a", late)).apply_async({"x": 1}, countdown=1)
    there = moved(result, site, elsewhere)

    assert there.get(timeout=30) == {"x": 1}


@pytest.mark.parametrize(("fail", "status"), [([], "COMPLETED"), (["b/f"], "COMPENSATED")])
def test_an_ended_saga_stays_ended_and_expires(shared, elsewhere, fail, status):
    result = shared.saga(("a", late, compensation), ("b", late)).delay(fail=fail, hold=[])
    assert shared.settled(result) == status
    before = result.execution
    there = put_into(elsewhere, exported(result))

    assert there.status.value == status
    assert {**there.execution.raw, "revision": 0} == {**before.raw, "revision": 0}
    assert 0 < elsewhere.client.ttl(f"saga:execution:{result.id}") <= 86400
    assert elsewhere.client.zscore("saga:due", result.id) is None
    store = SagaManager(elsewhere.app)._runtime.store
    assert result.id in found_by(store, SagaStatus(status), 9)
    assert store.find(SagaStatus.PAUSED, 9) == []


def test_a_stuck_saga_stays_stuck_for_ever(shared, elsewhere):
    app = shared.new_app(saga_unknown_task_grace=0)
    saga = Saga("stuck", app=app)
    saga.local_step(late, name="a").on_failure(compensation)
    saga.local_step("unknown.task", name="b", inputs=[])
    result = saga.commit().delay()
    assert shared.settled(result) == "STUCK"
    there = put_into(elsewhere, exported(result))

    assert elsewhere.client.ttl(f"saga:execution:{result.id}") == -1
    assert there.cancel() is True
    wait_for(lambda: there.status is SagaStatus.COMPENSATED, timeout=30)
    asyncio.run(SagaManager(app).repository.delete(result.id))


def test_a_saga_that_is_there_stays_as_it_is(site, elsewhere):
    result = site.saga(("a", late)).delay(x=1)
    text = exported(result)
    with pytest.raises(SagaAlreadyExists, match="taken by a run of saga 'site'"):
        put_into(site, text)
    assert exported(result) == text
    assert site.queued() == 1
