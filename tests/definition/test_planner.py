"""From a definition to a plan: names, what happens to lost steps, retries, classes, warnings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, _state, shared_task

from celery_saga import LocalSagaStep, Saga, errors, saga_step
from celery_saga.core.plan import Call, Plan, PlanStep
from celery_saga.errors import DefinitionError
from tests.definition.building import call_of, new_app, plan_of

app = new_app("planner")


@app.task(name="planner.charge", acks_late=True, shared=False)
def charge(total: float) -> None: ...


@app.task(name="planner.refund", shared=False)
def refund(payment: str) -> None: ...


@app.task(name="planner.ship", shared=False)
def ship(address: str = "") -> None: ...


@app.task(name="planner.find", shared=False)
def find(payment: str = "") -> None: ...


@shared_task(name="planner.log")
def log() -> None: ...


def plain(context: Any) -> None: ...


Saga("planner", steps=[plain]).commit()

step = LocalSagaStep


class Declined(Exception):
    class Hard(Exception): ...


def names(*steps: Any) -> list[str]:
    return [step.name for step in plan_of(Saga("s", steps=steps, app=app)).steps]


class TestNames:
    @pytest.mark.parametrize(
        ("steps", "expected"),
        [
            ([charge, ship], ["charge", "ship"]),
            (["some.other.task"], ["task"]),
            ([step("task", inputs=[])], ["task"]),
            ([plain], ["plain"]),
            ([charge, charge, charge], ["charge", "charge_2", "charge_3"]),
            ([charge, step(charge, name="charge_2"), charge], ["charge", "charge_2", "charge_3"]),
            ([charge, step(charge, name="charge")], ["charge_2", "charge"]),
            ([step(charge, name="pay"), charge], ["pay", "charge"]),
            ([step("a/b", inputs=[]), step("c.a_b", inputs=[])], ["a_b", "a_b_2"]),
        ],
    )
    def test_are_given_derived_or_numbered(self, steps: list[Any], expected: list[str]) -> None:
        fresh = [step(one, inputs=[]) if isinstance(one, str) else _copy(one) for one in steps]
        assert names(*fresh) == expected

    def test_of_the_saga(self) -> None:
        assert plan_of(Saga("order", steps=[charge])).saga == "order"
        assert plan_of(Saga(steps=[charge])).saga == "saga"


def _copy(one: Any) -> Any:
    """A step belongs to one saga only."""
    if not isinstance(one, LocalSagaStep) or one.action is None:
        return one
    return LocalSagaStep(one.action, **one.options)


class TestRepr:
    @pytest.mark.parametrize(
        ("saga", "expected"),
        [
            (Saga("order"), "<Saga order: (no steps) (not committed)>"),
            (Saga().commit(), "<Saga saga: (no steps)>"),
            (
                Saga("order", steps=[step(charge, refund), step(plain, name="book")]).commit(),
                "<Saga order: charge <-> refund -> book>",
            ),
            (
                Saga("order", steps=[step(charge, refund), step("far.book", pivot=True), ship]),
                "<Saga order: charge <-> refund -> book (pivot) -> ship (not committed)>",
            ),
            (
                Saga("order", steps=[step(on_failure=refund)]),
                "<Saga order: ? <-> refund (not committed)>",
            ),
        ],
    )
    def test_shows_the_plan_with_arrows(self, saga: Saga, expected: str) -> None:
        assert repr(saga) == expected


class TestOptions:
    @pytest.mark.parametrize(
        ("target", "on_lost", "rerun"),
        [
            (charge, None, True),
            (charge, "compensate", False),
            (charge, "rerun", True),
            ("planner.charge", None, True),
            (ship, None, False),
            (ship, "compensate", False),
            (ship, "rerun", True),
            (plain, None, False),
            (plain, "rerun", True),
        ],
    )
    def test_on_lost_follows_acks_late(self, target: Any, on_lost: str | None, rerun: bool) -> None:
        assert call_of(Saga(steps=[step(target, on_lost=on_lost)]), app).rerun is rerun

    def test_a_task_that_is_only_a_name_counts_as_early(self) -> None:
        assert not call_of(Saga(steps=[step("far.task", inputs=[])]), app).rerun

    def test_the_apps_setting_counts(self) -> None:
        late = new_app("late", task_acks_late=True)

        @late.task(name="late.task", shared=False)
        def task() -> None: ...

        assert call_of(Saga(steps=["late.task"]), late).rerun

    def test_a_compensation_is_always_run_again(self) -> None:
        saga = Saga(steps=[step(charge, ship, on_lost="compensate")])
        compensation = plan_of(saga, app).steps[0].compensation
        assert compensation is not None
        assert compensation.rerun

    def test_message_options_come_along(self) -> None:
        call = call_of(Saga(steps=[step(charge, queue="slow", priority=3, name="pay")]), app)
        assert call.options == {"queue": "slow", "priority": 3}

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, (1, 1.0, 300.0)),
            ({"retriable": False}, (1, 1.0, 300.0)),
            ({"retriable": True, "max_attempts": 4}, (4, 1.0, 300.0)),
            (
                {
                    "retriable": True,
                    "max_attempts": 1,
                    "retry_backoff": 3,
                    "retry_backoff_max": 0.5,
                },
                (1, 3.0, 0.5),
            ),
            ({"pivot": True, "retriable": True, "max_attempts": 2}, (2, 1.0, 300.0)),
        ],
    )
    def test_retries_up_to_the_pivot(self, options: dict[str, Any], expected: Any) -> None:
        assert retries(call_of(Saga(steps=[step(charge, **options)]), app)) == expected

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, (None, 1.0, 300.0)),
            ({"max_attempts": 4, "retry_backoff": 2}, (4, 2.0, 300.0)),
            ({"retriable": True}, (None, 1.0, 300.0)),
        ],
    )
    def test_retries_after_the_pivot(self, options: dict[str, Any], expected: Any) -> None:
        steps = [step(charge, pivot=True), step(ship, **options)]
        plan = plan_of(Saga(steps=steps), app)
        assert [retries(step.action) for step in plan.steps] == [(1, 1.0, 300.0), expected]
        assert [step.pivot for step in plan.steps] == [True, False]

    def test_retries_of_a_compensation(self) -> None:
        def compensation(saga: Saga, on: Celery) -> Any:
            call = plan_of(saga, on).steps[0].compensation
            assert call is not None
            return retries(call)

        other = new_app("patient", saga_compensation_max_attempts=9)
        assert compensation(Saga(steps=[step(plain, plain)]), app) == (5, 1.0, 300.0)
        assert compensation(Saga(steps=[step(plain, plain)]), other) == (9, 1.0, 300.0)
        own = Saga()
        own.local_step(plain).on_failure(plain, max_attempts=2, retry_backoff=7)
        assert compensation(own, other) == (2, 7.0, 300.0)

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (True, True),
            (False, False),
            (Declined, (f"{__name__}.Declined",)),
            ([Declined.Hard, ValueError], (f"{__name__}.Declined.Hard", "builtins.ValueError")),
            ((errors.MissingInput,), ("celery_saga.errors.MissingInput",)),
        ],
    )
    def test_classes_are_named(self, given: Any, expected: Any) -> None:
        saga = Saga(steps=[step(charge, ship, compensate_on_failure=given)])
        assert plan_of(saga, app).steps[0].compensate_on_failure == expected

    def test_a_scripts_own_class_is_named_like_its_tasks_too(self) -> None:
        mine = type("Mine", (Exception,), {"__module__": "__main__"})
        saga = Saga(steps=[step(plain, plain, compensate_on_failure=mine)]).commit()
        found = plan_of(saga, app).steps[0].compensate_on_failure
        assert found == ("__main__.Mine", "planner.Mine")
        without_main = plan_of(saga, new_app(""))
        assert without_main.steps[0].compensate_on_failure == ("__main__.Mine",)

    def test_the_apps_limits_come_along(self) -> None:
        other = new_app("limits", saga_max_redeliveries=7, saga_unknown_task_grace=30)
        plan = plan_of(Saga("s", steps=[plain]), other)
        task = f"saga:{__name__}.plain"
        assert plan == Plan("s", (PlanStep("plain", Call(task, "context", rerun=False)),), 7, 30.0)
        assert isinstance(plan.unknown_task_grace, float)


def retries(call: Call) -> tuple[int | None, float, float]:
    return call.max_attempts, call.backoff, call.backoff_max


class TestApp:
    def test_is_the_one_that_its_tasks_share(self) -> None:
        assert Saga(steps=[plain, step(charge, ship), "far.task"]).app is app

    def test_is_the_one_that_is_given(self) -> None:
        other = new_app("other")
        assert Saga(steps=[charge], app=other).app is other

    def test_shared_tasks_go_with_the_others(self) -> None:
        current = Celery("current")
        assert Saga(steps=[log, charge]).app is app
        assert Saga(steps=[log]).app is current

    def test_is_else_the_current_one(self) -> None:
        current = Celery("current")
        assert Saga(steps=[plain, "far.task"]).app is current

    def test_a_compensation_counts(self) -> None:
        assert Saga(steps=[step(plain, ship)]).app is app

    @pytest.fixture(autouse=True)
    def _current_app_is_put_back(self) -> Iterator[None]:
        before = _state._tls.current_app
        yield
        _state._set_current_app(before)


def test_a_saga_that_is_not_complete_has_no_plan() -> None:
    with pytest.raises(errors.EmptySagaException):
        plan_of(Saga("s"), app)
    with pytest.raises(DefinitionError):
        plan_of(Saga("s", steps=[step(on_failure=ship)]), app)


class TestConstants:
    """``parameters=`` of a step, wherever a step is written."""

    def test_of_a_step(self) -> None:
        saga = Saga("s", app=app)
        saga.local_step(charge, parameters={"total": 3.0})
        saga.local_step(LocalSagaStep(charge, parameters={"total": 4.0}))
        plan = plan_of(saga.commit(), app)
        assert [item.const for each in plan.steps for item in each.action.inputs] == [3.0, 4.0]

    def test_of_the_decorator(self) -> None:
        @saga_step(parameters={"total": 5.0})
        @app.task(name="planner.paid", shared=False)
        def paid(total: float, label: str = "") -> None: ...

        saga = Saga("s", app=app)
        saga.local_step(paid, parameters={"label": "x"})
        found = {item.param: item.const for item in call_of(saga.commit(), app).inputs}
        assert found == {"total": 5.0, "label": "x"}
