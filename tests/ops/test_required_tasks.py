"""Which tasks sagas need, by their plans and by how far they have come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_saga import LocalSagaStep, Saga, SagaOperation
from celery_saga.core.execution import Direction, Failure, SagaExecution, StepRef, StepStatus
from celery_saga.ops.doctor.collect.required_tasks import (
    gather_required_tasks,
    gather_task_timings,
    still_needed,
)
from celery_saga.runtime import runtime_of
from tests.core.scenario import Scenario
from tests.definition.building import new_app, plan_of

#: The process may have sagas of other tests, too.
SAGA = "checkout of the doctor"


def nothing():
    """The body of every task here."""


@pytest.fixture
def app():
    app = new_app(task_routes={"shop.ship": {"queue": "parcels"}}, task_soft_time_limit=40)
    for name, options in {
        "shop.reserve": {"acks_late": True, "time_limit": 9},
        "shop.release": {},
        "shop.charge": {},
        "shop.ship": {"acks_late": True},
    }.items():
        app.task(nothing, name=name, shared=False, **options)
    return app


def saga_of(app, **options):
    saga = Saga(SAGA, app=app)
    saga.local_step("shop.reserve", name="reserve", inputs=[]).on_failure("shop.release", inputs=[])
    saga.local_step("shop.charge", name="charge", inputs=[], time_limit=7, **options)
    saga.local_step("elsewhere.book", name="book", inputs=[], queue="carrier")
    saga.local_step("shop.ship", name="ship", inputs=[])
    return saga.commit()


def gathered(app, *live):
    required, broken = gather_required_tasks(runtime_of(app), live)
    assert SAGA not in broken
    return {
        (needed.step, needed.is_compensation): needed for needed in required if needed.saga == SAGA
    }


def test_committed_sagas_bring_all_their_tasks(app):
    saga = saga_of(app)

    found = gathered(saga.app)

    assert {key: (needed.task, needed.queue) for key, needed in found.items()} == {
        ("reserve", False): ("shop.reserve", "celery"),
        ("reserve", True): ("shop.release", "celery"),
        ("charge", False): ("shop.charge", "celery"),
        ("book", False): ("elsewhere.book", "carrier"),
        ("ship", False): ("shop.ship", "parcels"),
    }
    assert {step for (step, _), needed in found.items() if needed.reruns} == {
        "reserve",
        "ship",
    }
    assert {step for (step, _), needed in found.items() if needed.declared} == {
        "reserve",
        "charge",
        "ship",
    }
    assert found["reserve", False].needs_compensation
    assert not found["charge", False].needs_compensation
    assert [found[step, False].hard_limit for step in ("reserve", "charge", "ship")] == [9, 7, None]
    assert found["ship", False].soft_limit == 40


def test_from_the_pivot_on_every_step_is_run_again(app):
    saga = saga_of(app, pivot=True)

    found = gathered(saga.app)

    assert [found[step, False].reruns for step in ("charge", "book")] == [True, True]


def test_a_plain_function_has_no_options_of_its_own(app):
    saga = Saga(SAGA, app=app)
    saga.local_step(gathered, name="only", context=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("celery_saga.definition.functions.importing", lambda: True)
        saga.commit()

    found = gathered(app)

    assert found["only", False].task == f"saga:{__name__}.gathered"
    assert not found["only", False].declared


def test_a_saga_that_cannot_be_started_says_why(app):
    saga = Saga(SAGA, app=app)
    saga.local_step("elsewhere.book", name="book").on_failure(lambda context: None)
    saga.commit()

    required, broken = gather_required_tasks(runtime_of(app), ())

    assert [needed for needed in required if needed.saga == SAGA] == []
    assert "a worker could not find" in broken[SAGA]


def test_sagas_of_another_app_are_left_out(app):
    saga = saga_of(app)
    other = new_app("other")

    assert gathered(other) == {}
    assert gathered(saga.app)


def test_live_sagas_are_counted(app):
    saga = saga_of(app)
    live = [execution(app, saga, f"order-{number}") for number in range(3)]

    found = gathered(app, *live)

    assert found["charge", False].live == 3
    del saga


def execution(app, saga, saga_id="order-1"):
    return SagaExecution.create(saga_id, plan_of(saga, app), {}, at=1.0)


class TestStillNeeded:
    @pytest.fixture
    def run(self, app):
        return execution(app, saga_of(app))

    def needed(self, run):
        needed = still_needed(run)
        return {
            (run.steps[path].name, direction.value)
            for path, _, direction in run.plan.calls()
            if needed(path, direction)
        }

    def test_at_the_start_all(self, run):
        assert self.needed(run) == {
            ("reserve", "f"),
            ("reserve", "c"),
            ("charge", "f"),
            ("book", "f"),
            ("ship", "f"),
        }

    def test_forward_the_steps_to_come_and_every_compensation(self, run):
        run = run.with_step(0, status=StepStatus.SUCCEEDED, effect=True)

        assert self.needed(run) == {("reserve", "c"), ("charge", "f"), ("book", "f"), ("ship", "f")}

    def test_in_a_rollback_what_is_to_be_compensated(self, run):
        run = run.with_step(0, status=StepStatus.SUCCEEDED, effect=True)
        run = replace(run, direction=Direction.COMPENSATION)

        assert self.needed(run) == {("reserve", "c")}
        assert self.needed(run.with_step(0, status=StepStatus.COMPENSATED, effect=False)) == set()

    def test_a_step_that_runs_while_the_saga_is_to_roll_back(self, run):
        run = run.sent(StepRef((0,), Direction.FORWARD, 1), status=StepStatus.RUNNING)
        run = replace(run, rollback_reason=Failure("Cancelled", ""))

        assert self.needed(run) == {("reserve", "f")}


class TestTrees:
    """Steps in branches, choices, loops and nested sagas, behind timeouts, and commit tasks."""

    @pytest.fixture
    def saga(self, app):
        def step(name, **options):
            return LocalSagaStep(f"shop.{name}", name=name, inputs=[], **options)

        inner = Saga("inner of the doctor", steps=[step("inner")], app=app).commit()
        saga = Saga(SAGA, app=app)
        saga.parallel_step(step("left", compensation=compensation("back")), inner)
        choice = saga.conditional_step(name="way")
        choice.if_then("shop.is_large", step("large", on_commit=compensation("settle")), inputs=[])
        choice.if_then("shop.is_gift", step("gift"), inputs=[]).else_then(step("small"))
        saga.for_each("items", step("item", on_commit=compensation("settle")), parallel=True)
        saga.wait_for("approved", 5, step("remind"))
        return saga.commit()

    ALL = frozenset(
        {
            ("left", "shop.left"),
            ("left", "shop.back"),
            ("inner of the doctor.inner", "shop.inner"),
            ("way", "shop.is_large"),
            ("way", "shop.is_gift"),
            ("large", "shop.large"),
            ("gift", "shop.gift"),
            ("small", "shop.small"),
            ("item", "shop.item"),
            ("remind", "shop.remind"),
            ("large.commit", "shop.settle"),
            ("item.commit", "shop.settle"),
        }
    )

    def test_committed_sagas_bring_all_their_tasks(self, app, saga):
        required, _ = gather_required_tasks(runtime_of(app), ())
        found = {(it.step, it.task) for it in required if it.saga == saga.name}
        assert found == self.ALL

    def tasks(self, app, saga, script):
        played = Scenario.of(plan_of(saga, app), values={"items": [1, 2]}).play(f"start, {script}")
        needed = still_needed(played.execution)
        calls = played.execution.plan.calls()
        return {call.task.removeprefix("shop.") for path, call, way in calls if needed(path, way)}

    NEEDED = (
        ("f0.0 ok", "back inner is_large is_gift large gift small item remind settle"),
        ("f0.0 ok, f0.1.0 ok, f1 true", "back large item remind settle"),
        ("f0.0 ok, f0.1.0 ok, f1 false, f1 true", "back gift item remind settle"),
        ("f0.0 ok, f0.1.0 ok, f1 false, f1 false", "back small item remind settle"),
        ("f0.0 ok, f0.1.0 ok, f1 true, f1.0 ok, f2.0 ok", "back item remind settle"),
        ("f0.0 ok, f0.1.0 ok, f1 true, f1.0 ok, f2.0 ok, f2.1 ok", "back remind settle"),
        ("f0.0 ok, f0.1.0 fails", "back"),
    )

    @pytest.mark.parametrize(("script", "tasks"), NEEDED)
    def test_live_ones_what_is_still_to_come(self, app, saga, script, tasks):
        assert self.tasks(app, saga, script) == set(tasks.split())

    def test_of_a_loop_over_nothing_none(self, app):
        saga = Saga(SAGA, app=app)
        saga.local_step("shop.charge", inputs=[])
        body = LocalSagaStep("shop.item", inputs=[], on_commit=compensation("settle"))
        saga.for_each("items", body).local_step("shop.ship", name="ship", inputs=[])
        played = Scenario.of(plan_of(saga.commit(), app), values={"items": []})
        played.play("start, f0 ok")
        needed = still_needed(played.execution)
        calls = played.execution.plan.calls()
        assert [call.task for path, call, way in calls if needed(path, way)] == ["shop.ship"]


def compensation(name):
    return SagaOperation(f"shop.{name}", inputs=[])


def test_what_tasks_say_of_their_times():
    app = new_app()
    options = {
        "t.long": {"acks_late": True, "time_limit": 50, "soft_time_limit": 40},
        "t.early": {"time_limit": 50},
        "t.backoff": {"autoretry_for": (ValueError,), "retry_backoff": True},
        "t.fixed": {"autoretry_for": (ValueError,), "retry_kwargs": {"countdown": 7}},
        "t.default": {"autoretry_for": (ValueError,), "default_retry_delay": 20},
        "t.plain": {},
    }
    for name, each in options.items():
        app.task(nothing, name=name, shared=False, **each)

    found = {
        timings.task: (timings.limit, timings.countdown) for timings in gather_task_timings(app)
    }

    # Shared tasks of other tests' modules may be there as well.
    assert {name: each for name, each in found.items() if name in options} == {
        "t.long": (50, None),
        "t.backoff": (None, 600),
        "t.fixed": (None, 7),
        "t.default": (None, 20),
    }
