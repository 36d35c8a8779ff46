"""What a start says of queue and priority is for steps of which nothing says it yet."""

from __future__ import annotations

import re
from typing import Any

import pytest
from celery import Celery, Task

from celery_saga import Saga
from celery_saga.runtime import runtime_of
from tests.definition.building import new_app

START = {"queue": "express", "priority": 3}

#: Celery warns of attributes that name an exchange.
pytestmark = pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")


def function_route(name: str, *args: Any, **kwargs: Any) -> Any:
    return {"queue": "of a function"}


class Vip(Task):  # type: ignore[type-arg]
    queue = "vip"
    priority = 6


def options_of(
    app: Celery, step: dict[str, Any], compensation: dict[str, Any] | None = None, **task: Any
) -> tuple[Any, Any]:
    """Of the message of a step and of its compensation, started with :data:`START`."""

    @app.task(name="routes.do", shared=False, **task)
    def do() -> None: ...

    @app.task(name="routes.compensation", shared=False)
    def compensate() -> None: ...

    saga = Saga("routes", app=app)
    saga.local_step(do, **step).on_failure(compensate, **(compensation or {}))
    plan = runtime_of(app).plans.of(saga.commit(), **START).steps[0]
    assert plan.compensation is not None
    return plan.action.options, plan.compensation.options


@pytest.mark.parametrize(
    ("step", "task", "expected"),
    [
        ({}, {}, START),
        ({"queue": "own"}, {}, {"queue": "own", "priority": 3}),
        ({"priority": 0}, {}, {"queue": "express", "priority": 0}),
        ({"queue": "own", "priority": 9}, {}, {"queue": "own", "priority": 9}),
        (
            {"exchange": "x", "routing_key": "k"},
            {},
            {"exchange": "x", "routing_key": "k", "priority": 3},
        ),
        ({"expires": 60}, {}, {"expires": 60, **START}),
        ({}, {"queue": "vip"}, {"priority": 3}),
        ({}, {"priority": 6}, {"queue": "express"}),
        ({}, {"routing_key": "k"}, {"priority": 3}),
        ({}, {"base": Vip}, {}),
        ({"queue": "own"}, {"base": Vip}, {"queue": "own"}),
    ],
    ids=str,
)
def test_a_step(step: dict[str, Any], task: dict[str, Any], expected: dict[str, Any]) -> None:
    assert options_of(new_app("routes"), step, **task)[0] == expected


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ({"routes.do": "routed"}, {"priority": 3}),
        ({"routes.do": {"queue": "routed"}}, {"priority": 3}),
        ({"routes.*": {"queue": "routed", "priority": 1}}, {}),
        ([(re.compile(r"routes\..*"), {"queue": "routed"})], {"priority": 3}),
        (({"elsewhere": "x"}, {"routes.do": {"routing_key": "routed"}}), {"priority": 3}),
        ({"elsewhere.*": {"queue": "routed"}}, START),
        (function_route, START),
        ("tests.definition.test_routes.function_route", START),
        ((function_route, {"routes.do": "routed"}), {"priority": 3}),
        ("no.such.route", START),
        (None, START),
    ],
    ids=range(11),
)
def test_a_route(routes: Any, expected: dict[str, Any]) -> None:
    app = new_app("routes", task_routes=[routes] if isinstance(routes, dict) else routes)
    if isinstance(routes, list):
        app.conf.task_routes = [routes]
    assert options_of(app, {})[0] == expected


def test_the_priority_of_all_tasks_is_not_a_tasks_own() -> None:
    app = new_app("routes", task_default_priority=5)
    assert options_of(app, {})[0] == START


@pytest.mark.parametrize(
    ("step", "compensation", "expected"),
    [
        ({}, {}, START),
        ({"queue": "own"}, {}, {"queue": "own", "priority": 3}),
        ({"queue": "own", "priority": 0}, {}, {"queue": "own", "priority": 0}),
        ({"queue": "own"}, {"queue": "back"}, {"queue": "back", "priority": 3}),
        ({"priority": 9}, {"priority": 1}, {"queue": "express", "priority": 1}),
        ({"queue": "own"}, {"routing_key": "k"}, {"routing_key": "k", "priority": 3}),
        ({"time_limit": 9, "expires": 9}, {}, START),
    ],
    ids=str,
)
def test_a_compensation(
    step: dict[str, Any], compensation: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert options_of(new_app("routes"), step, compensation)[1] == expected


def test_a_compensation_whose_task_has_a_queue() -> None:
    app = new_app("routes", task_routes={"routes.compensation": "of compensations"})
    assert options_of(app, {"queue": "own", "priority": 9})[1] == {"priority": 9}


def test_a_tasks_own_queue_is_not_its_compensations() -> None:
    assert options_of(new_app("routes"), {}, queue="vip")[1] == START


def test_without_a_start_that_names_one() -> None:
    app = new_app("routes")
    saga = Saga("by name", app=app)
    saga.local_step("elsewhere.do", inputs=[], queue="own").on_failure(
        "elsewhere.compensation", inputs=[]
    )
    (step,) = runtime_of(app).plans.of(saga.commit()).steps
    assert step.compensation is not None
    assert (step.action.options, step.compensation.options) == ({"queue": "own"}, {"queue": "own"})
