"""``@saga_step`` above and below the task's own decorator, and steps given by their task's name."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, Task, shared_task

from celery_saga import DefinitionError, DefinitionWarning, LocalSagaStep, Saga, saga_step
from celery_saga.core.plan import Input, PlanStep
from celery_saga.errors import MultipleOnFailureException
from tests.definition.building import new_app, plan_of

_numbers = itertools.count(1)


def logged(function: Any) -> Any:
    """A decorator of a project's own."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Base(Task):  # type: ignore[type-arg]
    """A user's base class."""


class Shop:
    """An app with a compensation, and tasks that are paired with it."""

    def __init__(self) -> None:
        self.app = new_app()

        @self.app.task(shared=False)
        def refund(payment: Any = None) -> None: ...

        self.refund = refund

    @property
    def pairing(self) -> Callable[[Any], Any]:
        paired: Callable[[Any], Any] = saga_step(
            compensation=self.refund, inputs={"total": "sum"}, returns="payment", on_lost="rerun"
        )
        return paired

    def step(self, task: Any, **options: Any) -> PlanStep:
        saga = Saga(app=self.app)
        saga.local_step(task, **options)
        return plan_of(saga).steps[0]

    def expect_pairing(self, step: PlanStep) -> None:
        assert step.compensation is not None
        assert step.compensation.task == self.refund.name
        assert step.action.inputs == (Input("total", ("sum",)),)
        assert (step.action.returns, step.action.rerun) == ("payment", True)


@pytest.fixture
def shop() -> Shop:
    return Shop()


def own(app: Celery, **options: Any) -> Any:
    return app.task(shared=False, **options)


def shared(app: Celery, **options: Any) -> Any:
    return shared_task(name=f"pairings.shared_{next(_numbers)}", **options)


TASKS: dict[str, Callable[[Celery], Any]] = {
    "app.task": own,
    "shared_task": shared,
    "retried": lambda app: own(app, autoretry_for=(ValueError,)),
    "shared and retried": lambda app: shared(app, autoretry_for=(ValueError,)),
    "validated": lambda app: own(app, pydantic=True),
    "with a base": lambda app: own(app, base=Base),
    "made at once": lambda app: own(app, lazy=False),
}
BETWEEN = {"nothing": [], "one decorator": [logged], "two decorators": [logged, logged]}


def charge_of(*decorators: Any) -> Any:
    """A function under decorators, the outermost first."""

    def charge(total: float) -> Any: ...

    made: Any = charge
    for decorator in reversed(decorators):
        made = decorator(made)
    return made


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN.keys())
class TestInEitherOrder:
    def test_above(self, shop: Shop, task: Any, between: list[Any]) -> None:
        charge = charge_of(shop.pairing, task(shop.app), *between)
        shop.expect_pairing(shop.step(charge))
        shop.expect_pairing(shop.step(charge.name))

    def test_below(self, shop: Shop, task: Any, between: list[Any]) -> None:
        charge = charge_of(task(shop.app), *between, shop.pairing)
        shop.expect_pairing(shop.step(charge))
        shop.expect_pairing(shop.step(charge.name))

    def test_between_two_decorators(self, shop: Shop, task: Any, between: list[Any]) -> None:
        charge = charge_of(task(shop.app), *between, shop.pairing, logged)
        shop.expect_pairing(shop.step(charge))

    def test_of_the_task_as_the_app_has_it(self, shop: Shop, task: Any, between: list[Any]) -> None:
        charge = charge_of(shop.pairing, task(shop.app), *between)
        shop.expect_pairing(shop.step(shop.app.tasks[charge.name]))


class TestOrders:
    def test_a_bound_task(self, shop: Shop) -> None:
        @shop.app.task(bind=True, shared=False, autoretry_for=(ValueError,))
        @logged
        @shop.pairing
        def charge(self: Any, total: float) -> None: ...

        shop.expect_pairing(shop.step(charge))
        shop.expect_pairing(shop.step(charge.name))

    def test_a_task_that_is_made_already(self, shop: Shop) -> None:
        charge = charge_of(own(shop.app), shop.pairing)
        assert charge.name in shop.app.tasks
        assert charge.__evaluated__()
        shop.expect_pairing(shop.step(charge))

    def test_the_run_of_a_class(self, shop: Shop) -> None:
        class Charge(Task):  # type: ignore[type-arg]
            name = "pairings.charge"

            @logged
            @shop.pairing
            def run(self, total: float) -> None: ...

        charge = shop.app.register_task(Charge())
        shop.expect_pairing(shop.step(charge))
        shop.expect_pairing(shop.step(charge.name))

    def test_a_class(self, shop: Shop) -> None:
        @shop.pairing
        class Charge(Task):  # type: ignore[type-arg]
            name = "pairings.charge"

            def run(self, total: float) -> None: ...

        shop.expect_pairing(shop.step(shop.app.register_task(Charge())))
        shop.expect_pairing(shop.step("pairings.charge"))

    def test_a_partial(self, shop: Shop) -> None:
        charge = functools.partial(charge_of(shop.pairing), currency="EUR")
        charge.__name__, charge.__module__ = "charge", __name__  # type: ignore[attr-defined]
        charge.__annotations__ = {}
        found = Saga(app=shop.app).local_step(own(shop.app, typing=False)(charge))
        assert found.compensation is not None

    def test_of_two_words_on_one_thing_the_upper_one_holds(self, shop: Shop) -> None:
        charge = charge_of(saga_step(returns="paid"), own(shop.app), shop.pairing)
        step = shop.step(charge)
        assert (step.action.returns, step.action.inputs[0].path) == ("paid", ("sum",))
        assert step.compensation is not None

    def test_a_pairing_is_seen_before_the_commit(self, shop: Shop) -> None:
        saga = Saga(app=shop.app)
        saga.local_step(charge_of(own(shop.app), shop.pairing), name="charge", pivot=True)
        with pytest.raises(DefinitionError, match="is on or after the pivot"):
            saga.commit()

    def test_a_decorator_that_hides_it_is_warned_of(self, shop: Shop) -> None:
        def hiding(function: Any) -> Any:
            def wrapper(total: float) -> Any:
                return function(total)

            return wrapper

        hidden = charge_of(own(shop.app), hiding, shop.pairing)
        with pytest.warns(
            DefinitionWarning, match=r"charge\(\) has no effect.* functools.wraps"
        ) as warned:
            Saga(app=shop.app).local_step(hidden)
        assert [warning.filename for warning in warned] == [__file__]
        heard = charge_of(shop.pairing, own(shop.app, name="pairings.heard"), hiding, shop.pairing)
        shop.expect_pairing(shop.step(heard))

    def test_an_undecorated_function_brings_nothing(self, shop: Shop) -> None:
        step = shop.step(charge_of(own(shop.app), logged))
        assert step.compensation is None


class TestByName:
    def test_two_tasks_of_one_function(self, shop: Shop) -> None:
        charge = charge_of()
        shop.pairing(own(shop.app, name="pairings.paired")(charge))
        own(shop.app, name="pairings.alone")(charge)
        shop.expect_pairing(shop.step("pairings.paired"))
        assert shop.step("pairings.alone").compensation is None

    def test_another_apps_task_of_that_name(self, shop: Shop) -> None:
        Shop().pairing(charge_of(own(new_app(), name="pairings.of_two")))
        own(shop.app, name="pairings.of_two")(charge_of())
        assert shop.step("pairings.of_two").compensation is None

    def test_what_the_saga_says_itself_holds(self, shop: Shop) -> None:
        charge = charge_of(own(shop.app), shop.pairing)

        @shop.app.task(shared=False)
        def cancel() -> None: ...

        saga = Saga(app=shop.app)
        saga.local_step(charge.name, returns="paid").on_failure(cancel)
        step = plan_of(saga).steps[0]
        assert step.compensation is not None
        assert (step.compensation.task, step.action.returns) == (cancel.name, "paid")
        assert shop.step(charge.name, compensation=None).compensation is None

    def test_on_failure_replaces_the_compensation_that_is_declared(self, shop: Shop) -> None:
        @shop.app.task(shared=False)
        def void(payment: Any = None) -> None: ...

        @shop.pairing
        @shop.app.task(shared=False)
        def task(total: int) -> None: ...

        builders = (
            lambda saga: saga.local_step(task).on_failure(void),
            lambda saga: saga.local_step(LocalSagaStep(task, void)),
            lambda saga: saga.local_step().on_failure(void).on_execute(task),
            lambda saga: saga.local_step(task, compensation=void),
            lambda saga: saga.local_step(task.name).on_failure(void),
        )
        for build in builders:
            saga = Saga(app=shop.app)
            build(saga)
            (step,) = plan_of(saga).steps
            assert isinstance(step, PlanStep)
            assert step.compensation is not None
            assert step.compensation.task == void.name

        step = Saga(app=shop.app).local_step(task).on_failure(void)
        with pytest.raises(MultipleOnFailureException):
            step.on_failure(shop.refund)

    def test_a_compensation_is_called_as_its_task_says(self, shop: Shop) -> None:
        saga_step(inputs={"payment": "paid"}, max_attempts=9, compensation=shop.refund)(shop.refund)
        saga = Saga(app=shop.app)
        saga.local_step(charge_of(own(shop.app))).on_failure(shop.refund.name)
        compensation = plan_of(saga).steps[0].compensation
        saga_step(shop.refund)
        assert compensation is not None
        assert compensation.inputs == (Input("payment", ("paid",), required=False),)
        assert compensation.max_attempts == 9

    def test_a_compensation_that_is_a_name(self, shop: Shop) -> None:
        charge = charge_of(own(shop.app), saga_step(compensation=shop.refund.name))
        step = shop.step(charge.name)
        assert step.compensation is not None
        assert step.compensation.inputs == (Input("payment", ("payment",), required=False),)

    def test_its_name(self, shop: Shop) -> None:
        charge = charge_of(own(shop.app), saga_step(name="pay"))
        assert shop.step(charge.name).name == "pay"
        assert shop.step(charge.name, name="settle").name == "settle"

    def test_mistakes_are_found_when_it_is_started(self, shop: Shop) -> None:
        charge = charge_of(own(shop.app), shop.pairing)
        with pytest.raises(DefinitionError, match="is on or after the pivot"):
            shop.step(charge.name, pivot=True)

    def test_a_task_that_this_process_does_not_know(self, shop: Shop) -> None:
        step = shop.step("elsewhere.charge", inputs=["total"])
        assert step.compensation is None


def test_nothing_is_left_on_what_it_is_put_on() -> None:
    charge = charge_of()
    before = dict(vars(charge)), inspect.signature(charge)
    assert saga_step(returns="payment")(charge) is charge
    assert (dict(vars(charge)), inspect.signature(charge)) == before
