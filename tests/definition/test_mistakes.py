"""What is written by mistake: it is refused where it is written, with the way to write it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from celery import Celery, Task
from kombu import Queue

from celery_saga import LocalSagaStep, Saga, SagaManager, SagaOperation, saga_step
from celery_saga.errors import DefinitionError
from tests.definition.building import new_app, plan_of

app = new_app(task_acks_late=True)


@app.task(name="mistakes.charge", shared=False)
def charge(order_id: int) -> str: ...  # type: ignore[empty-body]


@app.task(name="mistakes.refund", shared=False)
def refund() -> None: ...


@app.task(name="mistakes.is_large", shared=False)
def is_large(context: Any) -> bool: ...  # type: ignore[empty-body]


def new() -> Any:
    return Saga("shop", app=app)


def paid(saga: str = "payment", **options: Any) -> Saga:
    return Saga(saga, app=app, steps=[LocalSagaStep(charge, **options)]).commit()


Row = tuple[Callable[[], Any], list[str]]

#: Values of a wrong kind of each option, as configurations and typing slips bring them.
WRONG_VALUES: dict[str, tuple[Any, str]] = {
    "queue=5": (5, "the name of a queue"),
    "queue=''": ("", "the name of a queue"),
    "queue=[]": (["payments"], "the name of a queue"),
    "queue=Queue": (Queue("payments"), "the name of a queue"),
    "exchange=1": (1, "the name of an exchange"),
    "routing_key=b": (b"payments", "a text"),
    "priority='high'": ("high", "a whole number from 0 to 255"),
    "priority='5'": ("5", "a whole number from 0 to 255"),
    "priority=True": (True, "a whole number from 0 to 255"),
    "priority=-1": (-1, "a whole number from 0 to 255"),
    "priority=256": (256, "a whole number from 0 to 255"),
    "priority=1.5": (1.5, "a whole number from 0 to 255"),
    "expires='soon'": ("soon", "seconds above 0, or a datetime"),
    "expires=0": (0, "seconds above 0, or a datetime"),
    "expires=timedelta": (timedelta(minutes=5), "seconds above 0, or a datetime"),
    "compression=True": (True, "the name of a compression"),
    "time_limit='x'": ("x", "seconds above 0"),
    "time_limit='30'": ("30", "seconds above 0"),
    "time_limit=0": (0, "seconds above 0"),
    "time_limit=timedelta": (timedelta(seconds=30), "seconds above 0"),
    "soft_time_limit=nan": (float("nan"), "seconds above 0"),
    "soft_time_limit=True": (True, "seconds above 0"),
}

#: Where an option is written -> the step with it, and how the error names the place.
PLACES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a step": (lambda given: new().local_step(charge, **given), "step number 1"),
    "a step's object": (
        lambda given: new().local_step(LocalSagaStep(charge, **given)),
        "step number 1",
    ),
    "a compensation": (
        lambda given: new().local_step(charge).on_failure(refund, **given),
        "step number 1, its compensation",
    ),
    "an operation": (
        lambda given: new().local_step(SagaOperation(charge, **given)),
        "step number 1",
    ),
    "a branch": (
        lambda given: new().parallel_step(refund, LocalSagaStep(charge, **given)),
        "step number 1, branch number 2",
    ),
    "a condition": (
        lambda given: new().conditional_step().if_then(is_large, charge, **given),
        "step number 1, its condition number 1",
    ),
}


@pytest.mark.parametrize("written", WRONG_VALUES)
def test_a_value_that_a_message_cannot_have(written: str) -> None:
    option, (value, expected) = written.partition("=")[0], WRONG_VALUES[written]
    with pytest.raises(DefinitionError) as caught:
        new().local_step(charge, **{option: value}).commit()
    assert str(caught.value) == (
        f"saga 'shop': step number 1: {option}: expected {expected}"
        f"{caught.value.args[0].partition(expected)[2]}"
    )
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("place", PLACES)
def test_wherever_it_is_written(place: str) -> None:
    build, where = PLACES[place]
    with pytest.raises(DefinitionError, match=f"{where}: queue: expected the name of a queue"):
        build({"queue": 5}).commit()


def test_in_a_declaration_that_only_the_worker_knows() -> None:
    @saga_step(time_limit="x")  # type: ignore[call-overload]
    @app.task(name="mistakes.declared", shared=False)
    def declared() -> None: ...

    saga = new().local_step("mistakes.declared", inputs=[]).commit()
    with pytest.raises(DefinitionError, match="step number 1: time_limit: expected seconds"):
        plan_of(saga, app)


def test_a_compression_that_no_process_knows() -> None:
    saga = new().local_step(charge, compression="lz77").commit()
    with pytest.raises(DefinitionError, match=r"step 'charge': compression: .* found 'lz77'"):
        plan_of(saga, app)


def test_none_leaves_an_option_unset() -> None:
    unset = dict.fromkeys(("queue", "priority", "expires", "compression", "time_limit"))
    saga = new().local_step(charge, **unset, routing_key="a").commit()
    (step,) = plan_of(saga, app).steps
    assert step.action.options == {"routing_key": "a"}  # type: ignore[union-attr]


REFUSED: dict[str, Row] = {
    "branches in a list": (
        lambda: new().parallel_step([charge, refund]),
        ["parallel_step: expected the branches one by one", "(*branches)", "a list"],
    ),
    "branches in a tuple": (
        lambda: new().parallel_step((charge, refund)),
        ["parallel_step(a, b)", "a tuple"],
    ),
    "branches in a generator": (
        lambda: new().parallel_step(each for each in (charge, refund)),
        ["parallel_step(*branches)", "a generator"],
    ),
    "branches that are lists": (
        lambda: new().parallel_step([charge], [refund]),
        ["several of them are a saga, Saga(steps=[...]).commit()"],
    ),
    "branches that are pairs": (
        lambda: new().parallel_step((charge, refund), (charge, refund)),
        ["LocalSagaStep(task, compensation)"],
    ),
    "branches with names": (
        lambda: new().parallel_step({"a": charge}),
        ["expected a Celery task, a task's name or a function", "{'a'"],
    ),
    "a body that is a list": (
        lambda: new().for_each("lines", [charge, refund]),
        ["several of them are a saga, Saga(steps=[...]).commit()"],
    ),
    "an alternative that is a list": (
        lambda: new().conditional_step().if_then(is_large, [charge]),
        ["several of them are a saga"],
    ),
    "a last alternative that is a list": (
        lambda: new().conditional_step().if_then(is_large, charge).else_then([refund]),
        ["several of them are a saga"],
    ),
    "what follows a timeout is a list": (
        lambda: new().wait_for("approved", 60, [charge]),
        ["several of them are a saga"],
    ),
    "a loop over the list itself": (
        lambda: new().for_each(["a", "b"], charge),
        ["for_each: expected the context key of a list", "['a', 'b']"],
    ),
    "a loop with its arguments exchanged": (
        lambda: new().for_each(charge, "lines"),
        ["for_each: expected the context key of a list"],
    ),
    "a condition that is a value": (
        lambda: new().conditional_step().if_then(3 > 2, charge),
        ["if_then: expected a condition", "is called in each run", "found True"],
    ),
    "a condition that is a saga": (
        lambda: new().conditional_step().if_then(paid(), is_large),
        ["if_then: expected the condition first", "a Saga as the condition"],
    ),
    "a condition that is a step": (
        lambda: new().conditional_step().if_then(LocalSagaStep(charge), is_large),
        ["if_then: expected the condition first", "a LocalSagaStep as the condition"],
    ),
    "a condition that is a list": (
        lambda: new().conditional_step().if_then([is_large], charge),
        ["if_then: expected a condition", "found [<"],
    ),
    "a result in place of a task": (
        lambda: new().local_step(Celery(set_as_current=False).AsyncResult("id")),
        ["give the task itself, without .delay()"],
    ),
    "the answer of a task in place of a task": (
        lambda: new().local_step({"payment_id": 7}),
        ["expected a Celery task", "{'payment_id': 7}"],
    ),
    "a compensation of None": (
        lambda: new().local_step(charge).on_failure(None),
        ["expected a Celery task", "found None"],
    ),
    "steps in place of the name": (lambda: Saga([charge]), ["steps are given with steps="]),  # type: ignore[arg-type]
    "a task as a nested saga": (
        lambda: new().nested_step(charge),
        ["expected a committed saga", "local_step()"],
    ),
    "a misspelt option of a parallel step": (
        lambda: new().parallel_step(charge, compensat="parallel"),
        ["parallel_step: unknown option 'compensat'", "did you mean 'compensate'?", "'name'"],
    ),
    "a misspelt option of a loop": (
        lambda: new().for_each("lines", charge, paralel=True),
        ["for_each: unknown option 'paralel'", "did you mean 'parallel'?", "'as_'"],
    ),
    "an option of a loop that is a word of Python": (
        lambda: new().for_each("lines", charge, **{"as": "line"}),
        ["unknown option 'as'", "did you mean 'as_'?"],
    ),
    "a misspelt option of a nested saga": (
        lambda: new().nested_step(paid(), input=["order_id"]),
        ["nested_step: unknown option 'input'", "did you mean 'inputs'?"],
    ),
    "a misspelt option of a wait": (
        lambda: new().wait_for("approved", return_="x"),
        ["wait_for: unknown option 'return_'", "did you mean 'returns'?"],
    ),
    "chained, a misspelt option": (
        lambda: new().local_step(charge).for_each("lines", refund, retuns="x"),
        ["for_each: unknown option 'retuns'", "did you mean 'returns'?"],
    ),
    "a misspelt option of a step": (
        lambda: new().local_step(charge, quue="x"),
        ["unknown option 'quue'", "did you mean 'queue'?"],
    ),
    **{
        f"Celery's option {option}=": (
            lambda option=option: new().local_step(charge, **{option: 5}),  # type: ignore[misc]
            [f"unknown option {option!r}", meant],
        )
        for option, meant in {
            "countdown": "sleep_step(seconds)",
            "eta": "apply_async(eta=)",
            "max_retries": "max_attempts=",
            "timeout": "time_limit=",
            "kwargs": "parameters={...}",
            "ignore_result": "returns=False",
            "link": "on_completed()",
            "serializer": "JSON",
        }.items()
    },
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_where_it_is_written(what: str) -> None:
    build, expected = REFUSED[what]
    with pytest.raises(DefinitionError) as caught:
        build()
    for part in expected:
        assert part in str(caught.value), str(caught.value)


#: Names of steps with which two of them would have one idempotency key.
AMBIGUOUS: dict[str, Callable[[Any], Any]] = {
    "a step named as one of a nested saga": lambda saga: saga.nested_step(paid()).local_step(
        charge, name="payment.charge"
    ),
    "the same, in the other order": lambda saga: saga.local_step(
        charge, name="payment.charge"
    ).nested_step(paid()),
    "a nested saga named as a step of another": lambda saga: saga.nested_step(
        paid("order", name="payment")
    ).nested_step(paid(), name="order.payment"),
    "sagas with dots in their names": lambda saga: saga.nested_step(
        paid("order", name="payment.charge")
    ).nested_step(paid(), name="order.payment"),
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_two_steps_of_one_full_name(what: str) -> None:
    saga = new()
    AMBIGUOUS[what](saga)
    with pytest.raises(DefinitionError, match=r"two of its steps have the full name '\w+\.\w+"):
        plan_of(saga, app)


@pytest.mark.parametrize("name", ["ki[0]", "a]", "[", "a/b"])
def test_a_name_that_could_be_an_items(name: str) -> None:
    with pytest.raises(DefinitionError, match=r"without '/', '\[' and '\]'"):
        new().local_step(charge, name=name).commit()


def test_names_with_dots_and_of_odd_sagas_are_fine() -> None:
    saga = new().local_step(charge, name="v1.charge").nested_step(paid("kits[0]/a")).commit()
    names = [node.name for path, node in plan_of(saga, app).walk() if path]
    assert names == ["v1.charge", "kits_0__a", "kits_0__a.charge"]


class TestResultsInChoices:
    """Only one alternative of a choice runs: a task has one result key in all of them."""

    def keys(self, saga: Any) -> dict[str, str]:
        plan = plan_of(saga, app)
        steps = [plan.at(path) for path in plan.leaves]
        return {step.name: step.key for step in steps if hasattr(step, "key")}

    def test_each_alternative_has_the_key_of_its_task(self) -> None:
        choice = new().conditional_step().if_then(is_large, charge)
        choice.if_then(is_large, charge).else_then(charge)
        keys = self.keys(choice.commit())
        assert keys == {"charge": "charge", "charge_2": "charge", "charge_3": "charge"}

    def test_a_step_before_or_behind_the_choice_counts(self) -> None:
        saga = new().local_step(charge)
        saga.conditional_step().if_then(is_large, charge).else_then(charge).local_step(charge)
        assert self.keys(saga.saga.commit()) == {
            "charge": "charge",
            "charge_2": "charge_2",
            "charge_3": "charge_2",
            "charge_4": "charge_3",
        }

    def test_a_name_that_was_given_is_the_key(self) -> None:
        choice = new().conditional_step().if_then(is_large, LocalSagaStep(charge, name="large"))
        assert self.keys(choice.else_then(charge).commit()) == {
            "large": "large",
            "charge": "charge",
        }

    def test_branches_and_loops_count_as_before(self) -> None:
        saga = new().parallel_step(charge, charge).for_each("lines", charge).commit()
        names = ["charge", "charge_2", "charge_3"]
        assert self.keys(saga) == dict(zip(names, names, strict=True))

    def test_what_follows_reads_it(self) -> None:
        here = Celery("mistakes", broker="memory://", set_as_current=False)
        here.conf.update(task_always_eager=True)
        SagaManager(here, storage="memory://")

        @here.task(shared=False)
        def large(total: int) -> bool:
            return total > 100

        @here.task(shared=False, acks_late=True)
        def pay(total: int) -> str:
            return f"paid {total}"

        @here.task(shared=False, acks_late=True)
        def ship(pay: str) -> str:
            return f"shipped, {pay}"

        saga = Saga("one", app=here)
        saga.conditional_step().if_then(large, pay).else_then(pay).local_step(ship).commit()
        for total in (7, 700):
            assert saga.delay(total=total).get()["ship"] == f"shipped, paid {total}"


class Gateway:
    """A client of a service, as projects have them."""

    def charge(self, context: Any) -> None: ...

    @classmethod
    def book(cls, context: Any) -> None: ...

    def __call__(self, context: Any) -> None: ...


class Booking(Task):  # type: ignore[type-arg]
    name = "mistakes.booking"

    def run(self, order_id: int) -> None: ...


#: What can be called, but not found by a worker -> the way to write it.
NOT_FOUND: dict[str, tuple[Any, str]] = {
    "a method": (Gateway().charge, "call it in a task, or in a function of a module"),
    "a method of a class": (Gateway.book, "call it in a task, or in a function of a module"),
    "an object": (Gateway(), "call it in a task, or in a function of a module"),
    "a function of C": (print, "call it in a task, or in a function of a module"),
    "a partial": (partial(charge, order_id=7), "its constants go into parameters={...}"),
    "a task's class": (Booking, "app.register_task(...)"),
}


@pytest.mark.parametrize("what", NOT_FOUND)
def test_what_a_worker_could_not_find(what: str) -> None:
    target, meant = NOT_FOUND[what]
    saga = new().local_step(target).commit()
    with pytest.raises(DefinitionError, match="expected a Celery task, a task's name") as caught:
        plan_of(saga, app)
    assert meant in str(caught.value)
