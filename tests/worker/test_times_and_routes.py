"""When a saga starts, until when it may run, and on which queue: as for a task."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

from celery_saga import Saga, SagaStatus
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, early, late

pytestmark = pytest.mark.worker


class TestStart:
    def test_a_countdown_is_awaited_without_a_message(self, shared):
        result = shared.saga(("a", late)).apply_async({}, countdown=4)

        assert result.status is SagaStatus.CREATED
        assert shared.queued() == 0
        assert shared.settled(result) == "COMPLETED"
        found = result.execution
        assert found.steps[0].started_at - found.created_at >= 4

    @pytest.mark.parametrize("zone", [timezone.utc, timezone(timedelta(hours=5)), None])
    def test_an_eta_is_a_time(self, site, zone):
        site.app.conf.update(timezone="America/New_York")  # a naive one is in UTC all the same
        eta = (datetime.now(timezone.utc) + timedelta(hours=2)).astimezone(zone or timezone.utc)
        result = site.saga(("a", late)).apply_async(
            {}, eta=eta if zone else eta.replace(tzinfo=None)
        )

        found = result.execution
        assert found.steps[0].not_before - found.created_at == pytest.approx(7200, abs=60)
        assert result.cancel()
        assert result.status is SagaStatus.COMPENSATED

    def test_a_time_that_is_over_is_now(self, site):
        past = datetime.now(timezone.utc) - timedelta(hours=1)
        assert site.saga(("a", late)).apply_async({}, eta=past).status is SagaStatus.RUNNING
        assert site.queued() == 1

    @pytest.mark.parametrize(
        "times",
        [
            {"countdown": -1},
            {"countdown": "soon"},
            {"countdown": float("nan")},
            {"countdown": float("inf")},
            {"countdown": True},
            {"eta": 7},
            {"countdown": 1, "eta": datetime(2030, 1, 1)},
            {"deadline": 0},
            {"deadline": -5},
            {"deadline": "late"},
            {"deadline": float("inf")},
            {"deadline": 5, "countdown": 10},
            {"deadline": datetime(2020, 1, 1)},
            {"queue": ""},
            {"queue": 7},
            {"priority": "high"},
            {"priority": 256},
            {"priority": True},
        ],
        ids=str,
    )
    def test_what_cannot_be_is_refused_and_nothing_is_started(self, site, times):
        name = next(iter(times))
        with pytest.raises(ValueError, match=f"{name}.*: expected"):
            site.saga(("a", late)).apply_async({}, saga_id="refused", **times)
        assert not site.client.exists("saga:execution:refused")


class TestDeadline:
    @pytest.mark.parametrize("deadline", [5.0, timedelta(seconds=5)], ids=["seconds", "timedelta"])
    def test_a_saga_that_is_not_through_by_then_is_compensated(self, shared, deadline):
        saga = shared.saga(("a", late, compensation), ("b", late, compensation))
        result = saga.apply_async({"hold": ["b/f"]}, deadline=deadline)
        shared.journal.wait(result.id, "began", 2)
        wait_for(lambda: result.execution.rollback_reason is not None)
        assert result.execution.rollback_reason.type == "DeadlineExceeded"

        shared.journal.open(result.id, "b/f")
        assert shared.settled(result) == "COMPENSATED"
        assert shared.journal.began(result.id) == ["a/f", "b/f", "b/c", "a/c"]


def consume(site, *queues):
    """Let the worker serve these queues as well."""
    (worker,) = site.workers
    for queue in queues:
        site.app.control.add_consumer(queue, destination=[worker.name], reply=True, timeout=10)


class TestRoutes:
    def test_queue_and_priority_are_for_steps_that_name_none(self, shared):
        saga = shared.saga(("a", late, compensation), ("b", late))
        result = saga.apply_async({}, queue="overnight", priority=3)
        (raw,) = shared.client.lrange("overnight", 0, -1) or shared.client.lrange(
            "overnight\x06\x163", 0, -1
        )
        assert json.loads(raw)["properties"]["priority"] == 3
        steps = result.execution.plan.steps
        assert steps[0].compensation.options == {"queue": "overnight", "priority": 3}
        assert shared.queued() == 0

        consume(shared, "overnight")
        assert shared.settled(result) == "COMPLETED"
        assert saga.delay().execution.plan.steps[0].action.options == {}

    def test_a_compensation_goes_where_its_step_goes(self, shared):
        """To the queue that the step names, also where the start names another."""
        consume(shared, "vip", "express")
        saga = Saga("own queues", app=shared.app)
        saga.local_step(late, name="a", queue="vip", priority=6).on_failure(compensation)
        saga.local_step(late, name="b").on_failure(compensation)
        saga.local_step(late, name="c", queue="vip").on_failure(compensation, queue="express")
        saga.local_step(late, name="d")
        result = saga.commit().apply_async({"fail": ["d/f"]}, queue="express", priority=3)

        plan = result.execution.plan.steps
        assert [(step.action.options, step.compensation.options) for step in plan[:3]] == [
            ({"queue": "vip", "priority": 6}, {"queue": "vip", "priority": 6}),
            ({"queue": "express", "priority": 3}, {"queue": "express", "priority": 3}),
            ({"queue": "vip", "priority": 3}, {"queue": "express", "priority": 3}),
        ]
        assert shared.settled(result) == "COMPENSATED"

    def test_a_route_by_names_stays(self, site):
        """No worker consumes the queue of the start, and none the default queue."""
        site.app.conf.task_routes = {"tests.worker.apps.steps.ear*": {"queue": "routed"}}
        saga = Saga("tasks with queues", app=site.app)
        saga.local_step(early, name="a", on_lost="rerun")
        result = saga.commit().apply_async({"hold": []}, queue="unconsumed", priority=3)

        assert result.execution.plan.steps[0].action.options == {"priority": 3}
        assert site.client.exists("routed\x06\x163")
        site.worker("-Q", "routed")
        assert site.settled(result) == "COMPLETED"
