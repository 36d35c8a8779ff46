"""``cancel(terminate=True)``: the process of a forward step is killed, never a compensation."""

from __future__ import annotations

import importlib.util
import json

import pytest

from celery_saga import Saga, SagaCompensated, SagaPastPivot
from celery_saga.core.execution import StepStatus
from tests.helpers import has_exited, wait_for
from tests.worker.apps.steps import compensation, early, late

pytestmark = pytest.mark.worker

GEVENT = pytest.param(
    ("-P", "gevent"),
    id="gevent",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("gevent") is None, reason="gevent is not installed"
    ),
)


class TestPrefork:
    @pytest.mark.parametrize("task", [late, early], ids=["late ack", "early ack"])
    @pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
    def test_the_running_step_is_killed_and_compensated(self, shared, task, signal):
        result = shared.saga(
            ("a", late, compensation), ("b", task, compensation), ("c", late)
        ).delay(hold=["b/f"])
        line = shared.journal.wait(result.id, "began", 2)

        assert result.cancel("wrong order", by="ann", terminate=True, signal=signal) is True

        with pytest.raises(SagaCompensated, match="Cancelled: wrong order"):
            result.get(timeout=30)
        assert shared.journal.began(result.id) == ["a/f", "b/f", "b/c", "a/c"]
        assert [end["step"] for end in shared.journal.said(result.id, "ended")] == ["a", "b", "a"]
        wait_for(lambda: has_exited(line["pid"]))
        assert result.execution.steps[1].error is not None

    def test_after_a_cancel_that_waits(self, shared):
        """The first call has changed the outcome; the second only hastens it."""
        result = shared.saga(("a", late, compensation)).delay(hold=["a/f"])
        shared.journal.wait(result.id, "began")
        assert result.cancel() is True
        assert result.cancel(terminate=True) is False
        assert shared.settled(result) == "COMPENSATED"
        assert shared.journal.began(result.id) == ["a/f", "a/c"]

    def test_a_compensation_is_never_killed(self, shared):
        saga = shared.saga(("a", late, compensation), ("b", late, compensation))
        result = saga.delay(hold=["a/c"], fail=["b/f"])
        shared.journal.wait(result.id, "began", 3)

        assert result.cancel(terminate=True) is False
        assert not any(result.id in task_id for task_id in self.revokes(shared))
        shared.journal.open(result.id, "a/c")
        assert shared.settled(result) == "COMPENSATED"
        assert shared.journal.began(result.id) == ["a/f", "b/f", "a/c"]

    def test_nothing_is_killed_that_may_not_be_cancelled(self, shared):
        pivot = Saga("pivot", app=shared.app)
        pivot.local_step(late, name="a", pivot=True)
        result = pivot.commit().delay(hold=["a/f"])
        shared.journal.wait(result.id, "began")

        with pytest.raises(SagaPastPivot):
            result.cancel(terminate=True)
        shared.journal.open(result.id, "a/f")
        assert shared.settled(result) == "COMPLETED"
        assert shared.journal.began(result.id) == ["a/f"]
        assert result.cancel(terminate=True) is False

    def test_a_step_that_no_worker_has_started(self, site):
        result = site.saga(("a", late, compensation)).delay()
        assert result.cancel(terminate=True) is True
        assert result.status == "COMPENSATED"
        worker = site.worker()
        wait_for(lambda: "stale delivery" in worker.text())
        assert site.journal.began(result.id) == []

    def revokes(self, site):
        """Revokes that workers have been sent: they answer for those they remember."""
        found = site.app.control.inspect(timeout=2).revoked() or {}
        return [one for ids in found.values() for one in ids]


class TestOtherPools:
    @pytest.mark.parametrize("pool", ["threads", "solo"])
    def test_where_nothing_can_be_killed_the_step_ends_first(self, site, pool):
        worker = site.worker("-P", pool)
        result = site.saga(("a", late, compensation), ("b", late)).delay(hold=["a/f"])
        site.journal.wait(result.id, "began")
        assert result.cancel(terminate=True) is True
        if pool == "threads":  # solo is busy with the step, and hears of it later
            wait_for(lambda: "revoke" in worker.text().lower(), 20)
        assert result.execution.steps[0].status is StepStatus.RUNNING
        site.journal.open(result.id, "a/f")
        assert site.settled(result) == "COMPENSATED"
        assert site.journal.began(result.id) == ["a/f", "a/c"]
        assert [line["step"] for line in site.journal.said(result.id, "ended")] == ["a", "a"]

    @pytest.mark.parametrize("options", [GEVENT])
    def test_a_greenlet_is_killed(self, site, options):
        site.worker(*options)
        result = site.saga(("a", late, compensation), ("b", late)).delay(hold=["a/f"])
        site.journal.wait(result.id, "began")
        assert result.cancel(terminate=True) is True
        assert site.settled(result) == "COMPENSATED"
        assert site.journal.began(result.id) == ["a/f", "a/c"]
        assert json.dumps(list(result.progress.values())) == '["COMPENSATED", "PENDING"]'
