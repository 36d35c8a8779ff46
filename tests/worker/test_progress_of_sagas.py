"""``AsyncResult(saga_id)`` of a saga that is on its way, with ``task_track_started``."""

from __future__ import annotations

from dataclasses import replace

import pytest
from celery.result import AsyncResult

from celery_saga import SagaCompensated
from celery_saga.core.execution import SagaStatus
from celery_saga.messaging.results import track
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late
from tests.worker.harness import Site

pytestmark = pytest.mark.worker


@pytest.fixture(scope="module")
def tracked(valkey, journal, folder):
    """One worker for all tests here."""
    site = Site(valkey.url(14), journal, folder)
    site.settings["task_track_started"] = True
    site.worker()
    yield site
    site.close()


@pytest.fixture
def saga(tracked):
    return tracked.saga(("a", late, compensation), ("b", late, compensation), name="tracked")


def shown(site, result):
    """State and info as a client without the plugin has them."""
    theirs = AsyncResult(result.id, app=site.app)
    return theirs.state, theirs.info


def test_each_step_is_shown(tracked, saga):
    result = saga.delay(hold=["a/f", "b/f", "b/c", "a/c"], fail=["b/f"])
    steps = {"a": "RUNNING", "b": "PENDING"}
    for began, (name, status, becomes) in enumerate(
        [("a/f", "RUNNING", {}), ("b/f", "RUNNING", {"a": "SUCCEEDED", "b": "RUNNING"})], start=1
    ):
        steps |= becomes
        tracked.journal.wait(result.id, "began", began)
        info = {"saga": "tracked", "status": status, "steps": steps}
        assert shown(tracked, result) == ("STARTED", info)
        assert result.info == info
        tracked.journal.open(result.id, name)
    tracked.journal.wait(result.id, "began", 3)
    state, info = shown(tracked, result)
    assert (state, info["status"]) == ("STARTED", "COMPENSATING")
    for name in ("b/c", "a/c"):
        tracked.journal.open(result.id, name)
    assert tracked.settled(result) == "COMPENSATED"
    wait_for(lambda: shown(tracked, result)[0] == "FAILURE")


@pytest.mark.parametrize("fail", [[], ["b/f"]], ids=["SUCCESS", "FAILURE"])
def test_a_claim_that_comes_late_does_not_write_over_an_end(tracked, saga, fail):
    """A process that slept through the end of its saga, between its claim and the write."""
    result = saga.delay(fail=fail)
    tracked.settled(result)
    theirs = AsyncResult(result.id, app=tracked.app)
    wait_for(theirs.ready)
    before = theirs.state
    running = saga.delay(hold=["a/f"])
    tracked.journal.wait(running.id, "began", 1)
    store = result._runtime.store

    class Late:
        """A store that shows the saga as it was, the first time."""

        asked = 0

        def load(self, saga_id, context=True):
            self.asked += 1
            return store.load(running.id if self.asked == 1 else saga_id, context)

    track(tracked.app, Late(), result.id)

    after = AsyncResult(result.id, app=tracked.app)
    assert after.state == before
    if fail:
        assert isinstance(after.result, SagaCompensated)
    tracked.journal.open(running.id, "a/f")
    tracked.settled(running)


def test_a_claim_that_comes_late_on_a_backend_that_lets_successes_be_written_over(
    tracked, saga, monkeypatch
):
    """As MongoDB's does, and Redis' if the success comes between its read and its write."""
    result = saga.delay()
    tracked.settled(result)
    backend = tracked.app.backend
    wait_for(AsyncResult(result.id, app=tracked.app).ready)
    store, before = result._runtime.store, replace(result.execution, status=SagaStatus.RUNNING)
    nothing = {"status": "PENDING", "result": None}

    class Late:
        asked = 0

        def load(self, saga_id, context=True):
            self.asked += 1
            return before if self.asked == 1 else store.load(saga_id, context)

    with monkeypatch.context() as patched:
        patched.setattr(backend, "_get_task_meta_for", lambda task_id: nothing)
        track(tracked.app, Late(), result.id)

    after = AsyncResult(result.id, app=tracked.app)
    assert after.state == "SUCCESS"
    assert after.result == dict(result.get())


def test_without_the_setting_there_is_nothing(functional_site, flows):
    saga = functional_site.saga(("a", late), name="untracked")
    result = saga.delay(hold=["a/f"])
    functional_site.journal.wait(result.id, "began", 1)

    assert shown(functional_site, result) == ("PENDING", None)
    functional_site.journal.open(result.id, "a/f")
    functional_site.settled(result)


def test_an_unavailable_backend_delays_no_step(tracked, saga, caplog):
    def unavailable(*args, **options):
        raise OSError("unavailable")

    result = saga.delay(hold=["a/f"])
    tracked.journal.wait(result.id, "began", 1)
    tracked.app.backend.store_result = unavailable
    try:
        with caplog.at_level("WARNING", "celery_saga"):
            track(tracked.app, result._runtime.store, result.id)
    finally:
        del tracked.app.backend.store_result

    assert "its progress could not be stored" in caplog.text
    tracked.journal.open(result.id, "a/f")
    assert tracked.settled(result) == "COMPLETED"
