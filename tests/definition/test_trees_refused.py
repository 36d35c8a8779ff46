"""Branches, choices, loops and nested sagas: what is refused, and what the text says to change."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import pytest

from celery_saga import LocalSagaStep, NestedSagaStep, Saga, SagaContext, errors
from celery_saga.definition.steps import ConditionalSagaStep, SleepSagaStep, WaitSagaStep
from celery_saga.errors import DefinitionError
from tests.definition.building import new_app, plan_of

app = new_app(task_acks_late=True)


@app.task(name="refused.one")
def one(order_id: int) -> dict[str, Any]: ...  # type: ignore[empty-body]


@app.task(name="refused.two")
def two(order_id: int) -> str: ...  # type: ignore[empty-body]


@app.task(name="refused.back")
def back() -> None: ...


class Rules:
    def is_large(self, context: SagaContext) -> bool: ...  # type: ignore[empty-body]


def total(total: float) -> bool: ...  # type: ignore[empty-body]


def inner(**options: Any) -> Saga:
    return Saga("inner", steps=[one], **options).commit()


def step(**options: Any) -> LocalSagaStep:
    return LocalSagaStep(one, **options)


def of(*steps: LocalSagaStep, **options: Any) -> Saga:
    return Saga("of", steps=[copy(each) for each in steps] or [step(**options)]).commit()


AC = (step(name="a", returns="a"), step(name="c", returns="c"))


def alternatives(*steps: Any) -> ConditionalSagaStep:
    found = ConditionalSagaStep()
    for each in steps:
        found.if_then(total, each)
    return found


def wait(after: LocalSagaStep) -> WaitSagaStep:
    return WaitSagaStep("approved", 1, after)


def planned(build: Callable[[Saga], Any]) -> Callable[[], Any]:
    """Commits a saga and makes its plan."""

    def make() -> Any:
        saga = Saga("outer")
        build(saga)
        return plan_of(saga, app)

    return make


def with_itself() -> None:
    first, second = Saga("first"), Saga("second")
    first.nested_step(second)
    second.nested_step(first)
    first.commit()


def twice(saga: Saga) -> None:
    used = inner()
    saga.nested_step(used)
    saga.parallel_step(one, used)


def changed_after_commit() -> None:
    saga = Saga("outer")
    choice = saga.conditional_step().if_then(lambda context: True, one)
    saga.commit()
    choice.if_then(lambda context: True, one)


def branch_changed_after_commit() -> None:
    branch = LocalSagaStep(one)
    Saga("outer").parallel_step(branch).commit()
    branch.on_failure(back)


def branch_of_two_groups() -> None:
    branch = LocalSagaStep(one)
    saga = Saga("outer")
    saga.parallel_step(branch)
    saga.parallel_step(branch)


REFUSED: dict[str, tuple[type[Exception], Callable[[], Any], list[str]]] = {
    "a saga as a local step": (
        DefinitionError,
        lambda: Saga("outer").local_step(inner()),  # type: ignore[arg-type]
        ["a saga as a step", "nested_step()"],
    ),
    "a group as a local step": (
        TypeError,
        lambda: Saga("outer").local_step(Saga("o").parallel_step(one)),
        ["LocalSagaStep", "ParallelSagaStep"],
    ),
    "no branch": (
        errors.EmptySagaStepException,
        lambda: Saga("outer").parallel_step(),
        ["no branches"],
    ),
    "an order that is not known": (
        DefinitionError,
        lambda: Saga("outer").parallel_step(one, compensate="sideways"),  # type: ignore[arg-type]
        ["compensate", "'reverse' or 'parallel'", "'sideways'"],
    ),
    "an order of a loop that is not known": (
        DefinitionError,
        lambda: Saga("outer").for_each("items", one, compensate=True),  # type: ignore[arg-type]
        ["compensate", "'reverse' or 'parallel'", "True"],
    ),
    "a bound method as a branch": (
        DefinitionError,
        planned(lambda saga: saga.parallel_step(Rules().is_large)),
        ["expected a Celery task", "is_large"],
    ),
    "a signature as a branch": (
        DefinitionError,
        lambda: Saga("outer").parallel_step(one.s(order_id=1)),
        ["a signature as a step", "the task itself"],
    ),
    "a function that takes no context, in a branch": (
        DefinitionError,
        planned(lambda saga: saga.parallel_step(one, total)),
        ["'outer'", "step number 1, branch number 2", "'total'"],
    ),
    "a condition that takes no context": (
        DefinitionError,
        planned(lambda saga: saga.conditional_step().if_then(total, one)),
        ["step number 1, its condition number 1", "'total'"],
    ),
    "a bound method as a condition": (
        DefinitionError,
        planned(lambda saga: saga.conditional_step().if_then(Rules().is_large, one)),
        ["expected a Celery task", "is_large"],
    ),
    "a condition with returns=": (
        DefinitionError,
        lambda: Saga("outer").conditional_step().if_then(two, one, returns="answer"),
        ["if_then", "returns="],
    ),
    "a lambda as the condition of a saga without a name": (
        DefinitionError,
        lambda: plan_of(Saga().conditional_step().if_then(lambda c: True, one).commit(), app),
        ["name the saga"],
    ),
    "a choice without alternatives is chained on": (
        errors.EmptySagaStepException,
        lambda: Saga("outer").conditional_step().local_step(one),
        [".if_then()"],
    ),
    "a choice with else_then() alone": (
        errors.EmptySagaStepException,
        lambda: Saga("outer").conditional_step().else_then(inner()).commit(),
        [".if_then()"],
    ),
    "a choice without alternatives is started": (
        errors.EmptySagaStepException,
        planned(lambda saga: saga.conditional_step()),
        [".if_then()"],
    ),
    "two last alternatives": (
        errors.MultipleElseThenException,
        lambda: Saga("outer").conditional_step().else_then(inner()).else_then(inner()),
        ["else_then()"],
    ),
    "a choice is changed after commit": (
        errors.AlreadyCommittedException,
        changed_after_commit,
        ["'outer' is committed"],
    ),
    "a branch is changed after commit": (
        errors.AlreadyCommittedException,
        branch_changed_after_commit,
        ["'outer' is committed"],
    ),
    "a branch of two groups": (
        errors.AlreadyOnSagaException,
        branch_of_two_groups,
        ["belongs to a saga already"],
    ),
    "a nested saga that is not committed": (
        errors.SagaNotCommittedException,
        planned(lambda saga: saga.nested_step(Saga("inner", steps=[one]))),
        ["'outer'", "'inner'", "inner.commit()"],
    ),
    "a branch that is not committed": (
        errors.SagaNotCommittedException,
        planned(lambda saga: saga.parallel_step(one, Saga("inner", steps=[one]))),
        ["'outer'", "'inner'", "inner.commit()"],
    ),
    "a chain without its commit()": (
        DefinitionError,
        lambda: Saga("outer").nested_step(Saga("inner").local_step(one)),  # type: ignore[arg-type]
        ["committed saga", ".commit() at its end"],
    ),
    "a nested task": (
        DefinitionError,
        lambda: Saga("outer").nested_step(one),
        ["committed saga", "refused.one"],
    ),
    "a nested saga without steps": (
        errors.EmptySagaException,
        planned(lambda saga: saga.nested_step(Saga("inner").commit())),
        ["'inner' has no steps"],
    ),
    "a saga in itself": (DefinitionError, with_itself, ["'first' > 'second' > 'first'"]),
    "one saga twice": (
        DefinitionError,
        planned(twice),
        ["two of its steps are a saga 'inner'", "NestedSagaStep(..., name=...)"],
    ),
    "two sagas of one name": (
        DefinitionError,
        planned(lambda saga: saga.parallel_step(inner(), inner())),
        ["two of its steps are a saga 'inner'"],
    ),
    "two steps of one name, one of them in a branch": (
        DefinitionError,
        planned(
            lambda saga: saga.parallel_step(LocalSagaStep(one, name="a")).local_step(two, name="a")
        ),
        ["two steps are named 'a'"],
    ),
    "two branches with one result": (
        DefinitionError,
        planned(
            lambda saga: saga.parallel_step(
                LocalSagaStep(one, returns="x"), two, LocalSagaStep(two, returns="x")
            )
        ),
        ["step number 1", "branches number 1 and 3", "'x'", "returns="],
    ),
    "a branch and a nested one with one result": (
        DefinitionError,
        planned(
            lambda saga: saga.parallel_step(
                LocalSagaStep(one, returns="x"), NestedSagaStep(inner(), returns={"x": "y"})
            )
        ),
        ["branches number 1 and 2", "'x'"],
    ),
    "a pivot in a branch": (
        DefinitionError,
        planned(lambda saga: saga.parallel_step(two, LocalSagaStep(one, pivot=True))),
        ["step number 1, branch number 2", "pivot in a branch, a loop or a choice"],
    ),
    "a pivot in a loop's saga": (
        DefinitionError,
        planned(
            lambda saga: saga.for_each(
                "items", Saga("inner", steps=[LocalSagaStep(one, pivot=True)]).commit()
            )
        ),
        ["the body of the loop, step number 1 of saga 'inner'", "pivot"],
    ),
    "a second pivot in a nested saga": (
        DefinitionError,
        planned(
            lambda saga: saga.local_step(one, pivot=True).nested_step(
                Saga("inner", steps=[LocalSagaStep(one, pivot=True)]).commit()
            )
        ),
        ["one pivot at most", "1 and 2, step number 1 of saga 'inner'"],
    ),
    "a compensation in a branch after the pivot": (
        DefinitionError,
        planned(
            lambda saga: saga.local_step(one, pivot=True).parallel_step(
                two, LocalSagaStep(one, back)
            )
        ),
        ["step number 2, branch number 2", "compensation", "pivot"],
    ),
    "options of a branch that contradict each other": (
        DefinitionError,
        planned(lambda saga: saga.parallel_step(LocalSagaStep(one, retriable=True))),
        ["step number 1, branch number 1", "max_attempts="],
    ),
    "a loop over nothing": (
        DefinitionError,
        lambda: Saga("outer").for_each("", one),
        ["for_each", "context key of a list", "''"],
    ),
    "a loop over a list of values": (
        DefinitionError,
        lambda: Saga("outer").for_each([1, 2], one),  # type: ignore[arg-type]
        ["for_each", "('order', 'lines')", "[1, 2]"],
    ),
    "a loop whose item has no name": (
        DefinitionError,
        lambda: Saga("outer").for_each("items", one, as_=""),
        ["as_", "context key"],
    ),
    "a loop with a wrong parallel=": (
        DefinitionError,
        lambda: Saga("outer").for_each("items", one, parallel="yes"),  # type: ignore[arg-type]
        ["parallel", "True or False", "'yes'"],
    ),
    "a loop that collects another key than its body returns": (
        DefinitionError,
        planned(lambda saga: saga.for_each("items", LocalSagaStep(one, returns="a"), returns="b")),
        ["collects 'b'", "returns='a'"],
    ),
    "a loop that collects what its body drops": (
        DefinitionError,
        planned(lambda saga: saga.for_each("x", LocalSagaStep(one, returns=False), returns="b")),
        ["collects 'b'", "returns=False"],
    ),
    "a loop that collects another key than a saga of one step returns": (
        DefinitionError,
        planned(lambda saga: saga.for_each("items", of(returns="a"), returns="b")),
        ["collects 'b'", "returns='a'"],
    ),
    "a loop that collects a key that no step of a saga returns": (
        DefinitionError,
        planned(lambda saga: saga.for_each("x", of(*AC), returns="b")),
        ["collects 'b'", "writes ['a', 'c']"],
    ),
    "a loop that collects another key than a nested saga gives back": (
        DefinitionError,
        planned(lambda saga: saga.for_each("x", NestedSagaStep(of(), returns=["a"]), returns="b")),
        ["collects 'b'", "returns='a'"],
    ),
    "a loop that collects another key than an alternative returns": (
        DefinitionError,
        planned(lambda saga: saga.for_each("x", alternatives(one, step(returns="a")), returns="b")),
        ["collects 'b'", "returns='a'"],
    ),
    "a loop that collects another key than what runs after a timeout returns": (
        DefinitionError,
        planned(lambda saga: saga.for_each("x", wait(step(returns="a")), returns="b")),
        ["collects 'b'", "returns='a'"],
    ),
    "a loop that collects what a sleep writes": (
        DefinitionError,
        planned(lambda saga: saga.for_each("x", SleepSagaStep(1), returns="b")),
        ["collects 'b'", "has none"],
    ),
    "a nested saga of another app": (
        DefinitionError,
        lambda: Saga("outer").nested_step(inner(app=new_app("other"))).local_step(one).commit().app,
        ["'outer'", "apps 'other' and 'shop'", "app=app"],
    ),
    "inputs= that are one key": (
        DefinitionError,
        lambda: Saga("outer").nested_step(inner(), inputs="order_id"),
        ["inputs", "a list of context keys", "'order_id'"],
    ),
    "inputs= that nothing reads": (
        DefinitionError,
        planned(lambda saga: saga.nested_step(inner(), inputs=["order_id", "colour"])),
        ["step 'inner'", "inputs= names 'colour'", "'order_id'"],
    ),
    "inputs= that lack what the first step requires": (
        DefinitionError,
        planned(lambda saga: saga.nested_step(inner(), inputs=[])),
        ["step 'inner'", "inputs= lacks 'order_id'", "'inner.one'"],
    ),
    "returns= that nothing writes": (
        DefinitionError,
        planned(
            lambda saga: saga.nested_step(
                Saga("inner", steps=[LocalSagaStep(one, returns="a")]).commit(), returns=["b"]
            )
        ),
        ["step 'inner'", "returns= names 'b'", "'a'"],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused(what: str) -> None:
    error, build, expected = REFUSED[what]
    with pytest.raises(error) as caught:
        build()
    assert type(caught.value) is error
    for part in expected:
        assert part in str(caught.value), str(caught.value)
