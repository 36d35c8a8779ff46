"""The builder: who may follow whom, what is refused at once and what when the saga is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_saga import LocalSagaStep, Saga, SagaOperation, errors, saga_step
from celery_saga.definition.steps import SagaStep


def do(context: Any) -> None:
    """A step's action."""


def compensation(context: Any) -> None:
    """A step's compensation."""


class OtherStep(SagaStep):
    """A step of another kind."""


class LoudStep(LocalSagaStep):
    """A user's own kind of local step."""


def empty_step() -> LocalSagaStep:
    return Saga("s").local_step()


def compensation_only() -> LocalSagaStep:
    return Saga("s").local_step().on_failure(compensation)


def committed() -> Saga:
    return Saga("s").local_step(do).on_failure(compensation).commit()  # type: ignore[no-any-return]


def with_last_step_empty() -> Saga:
    saga = Saga("s")
    saga.local_step(do)
    saga.local_step()
    return saga.commit()


def step_of(saga: Saga) -> Any:
    return saga.steps[0]


def added_twice() -> None:
    step = LocalSagaStep(do)
    Saga("one").local_step(step)
    Saga("two").local_step(step)


ALLOWED: dict[str, Callable[[], Any]] = {
    "an empty saga is committed": lambda: Saga("s").commit(),
    "a saga without a name": lambda: Saga().local_step(do).commit().validate(),
    "the last step is empty and the saga is committed": with_last_step_empty,
    "a chain": lambda: Saga("s").local_step(do).local_step(do).commit().validate(),
    "a step is given its callbacks one by one": lambda: (
        Saga("s").local_step().on_execute(do).on_failure(compensation).commit().validate()
    ),
    "the compensation is given before the do": lambda: (
        Saga("s").local_step().on_failure(compensation).on_execute(do).commit().validate()
    ),
    "a step object": lambda: (
        Saga("s").local_step(LocalSagaStep(do, compensation)).commit().validate()
    ),
    "an own kind of local step": lambda: Saga("s").local_step(LoudStep(do)).commit().validate(),
    "an operation": lambda: Saga("s").local_step(SagaOperation(do)).commit().validate(),
    "steps in the constructor": lambda: Saga("s", steps=[do, LocalSagaStep(do)]).commit(),
    "steps from an iterator": lambda: Saga("s", steps=iter([do])).commit(),
    "a list of no steps": lambda: Saga("s", steps=[]).commit(),
    "the same function twice": lambda: Saga("s", steps=[do, do]).commit().validate(),
}

REFUSED: dict[str, tuple[type[Exception], Callable[[], Any]]] = {
    "an empty saga is started": (errors.EmptySagaException, lambda: Saga("s").commit().validate()),
    "an empty saga, not even committed, is started": (
        errors.EmptySagaException,
        lambda: Saga("s").validate(),
    ),
    "a saga that is not committed is started": (
        errors.SagaNotCommittedException,
        lambda: Saga("s").local_step(do).saga.validate(),
    ),
    "an empty step is followed by another": (
        errors.EmptySagaStepException,
        lambda: empty_step().local_step(do),
    ),
    "an empty step is asked to commit": (
        errors.EmptySagaStepException,
        lambda: empty_step().commit(),
    ),
    "a saga whose last step is empty is started": (
        errors.EmptySagaStepException,
        lambda: with_last_step_empty().validate(),
    ),
    "a step with a compensation only is followed by another": (
        errors.UndefinedOnExecuteException,
        lambda: compensation_only().local_step(do),
    ),
    "a step with a compensation only is asked to commit": (
        errors.UndefinedOnExecuteException,
        lambda: compensation_only().commit(),
    ),
    "a saga with a compensation only is started": (
        errors.UndefinedOnExecuteException,
        lambda: compensation_only().saga.commit().validate(),
    ),
    "two actions": (
        errors.MultipleOnExecuteException,
        lambda: Saga("s").local_step(do).on_execute(do),
    ),
    "two actions, each by its method": (
        errors.MultipleOnExecuteException,
        lambda: empty_step().on_execute(do).on_execute(do),
    ),
    "two compensations": (
        errors.MultipleOnFailureException,
        lambda: Saga("s").local_step(do).on_failure(compensation).on_failure(compensation),
    ),
    "two compensations, one of them of the step object": (
        errors.MultipleOnFailureException,
        lambda: LocalSagaStep(do, compensation).on_failure(compensation),
    ),
    "a step is added after commit": (
        errors.AlreadyCommittedException,
        lambda: committed().local_step(do),
    ),
    "an empty saga gets a step after commit": (
        errors.AlreadyCommittedException,
        lambda: Saga("s").commit().local_step(do),
    ),
    "a step is chained on after commit": (
        errors.AlreadyCommittedException,
        lambda: step_of(committed()).local_step(do),
    ),
    "a second commit": (errors.AlreadyCommittedException, lambda: committed().commit()),
    "a second commit by the step": (
        errors.AlreadyCommittedException,
        lambda: step_of(committed()).commit(),
    ),
    "a compensation is added after commit": (
        errors.AlreadyCommittedException,
        lambda: step_of(Saga("s", steps=[do]).commit()).on_failure(compensation),
    ),
    "an empty step gets its action after commit": (
        errors.AlreadyCommittedException,
        lambda: with_last_step_empty().steps[1].on_execute(do),  # type: ignore[attr-defined]
    ),
    "a step of the wrong kind": (TypeError, lambda: Saga("s").local_step(OtherStep())),
    "a step of the wrong kind in the constructor": (
        TypeError,
        lambda: Saga("s", steps=[OtherStep()]),
    ),
    "a step of another saga": (errors.AlreadyOnSagaException, added_twice),
    "a step is asked for the saga that it lacks": (
        errors.SagaNotDefinedException,
        lambda: LocalSagaStep(do).saga,
    ),
    "a step without a saga is followed by another": (
        errors.SagaNotDefinedException,
        lambda: LocalSagaStep(do).local_step(do),
    ),
    "a step without a saga is asked to commit": (
        errors.SagaNotDefinedException,
        lambda: LocalSagaStep(do).commit(),
    ),
}


@pytest.mark.parametrize("build", ALLOWED.values(), ids=ALLOWED.keys())
def test_is_allowed(build: Callable[[], Any]) -> None:
    build()


@pytest.mark.parametrize(("expected", "build"), REFUSED.values(), ids=REFUSED.keys())
def test_is_refused(expected: type[Exception], build: Callable[[], Any]) -> None:
    with pytest.raises(expected) as caught:
        build()
    assert type(caught.value) is expected
    assert issubclass(expected, TypeError) or isinstance(caught.value, errors.DefinitionError)


class TestBuilder:
    def test_a_step_leads_back_to_its_saga(self) -> None:
        saga = Saga("s")
        assert saga.local_step(do).saga is saga

    def test_commit_returns_the_saga(self) -> None:
        saga = Saga("s")
        assert not saga.committed
        assert saga.local_step(do).commit() is saga
        assert saga.committed

    def test_a_refused_commit_leaves_the_saga_open(self) -> None:
        saga = Saga("s", steps=[LocalSagaStep(do, name="a"), LocalSagaStep(do, name="a")])
        with pytest.raises(errors.DefinitionError):
            saga.commit()
        assert not saga.committed

    def test_a_refused_step_is_not_added(self) -> None:
        saga = Saga("s")
        with pytest.raises(errors.DefinitionError):
            saga.local_step("shop.charge", quue="fast")
        assert saga.steps == ()

    def test_steps_keep_their_order(self) -> None:
        saga = Saga("s", steps=["shop.a", "shop.b"])
        saga.local_step("shop.c").local_step("shop.d")
        assert [step.action.callback for step in saga.steps if isinstance(step, LocalSagaStep)] == [
            "shop.a",
            "shop.b",
            "shop.c",
            "shop.d",
        ]


class TestCommittedSaga:
    def test_its_steps_cannot_be_exchanged(self) -> None:
        assert isinstance(committed().steps, tuple)

    @pytest.mark.parametrize("attribute", ["name", "steps", "committed"])
    def test_its_attributes_cannot_be_set(self, attribute: str) -> None:
        with pytest.raises(AttributeError):
            setattr(committed(), attribute, None)

    def test_its_steps_options_cannot_be_changed(self) -> None:
        step = step_of(Saga("s").local_step(do, pivot=True).commit())
        for options in (step.options, step.action.options, step.action.parameters):
            with pytest.raises(TypeError, match="item assignment"):
                options["pivot"] = False

    def test_it_does_not_follow_the_callers_own_objects(self) -> None:
        inputs, parameters = {"total": ["unused"]}, {"rates": {"eu": [19]}}
        saga = Saga("s")
        saga.local_step().on_execute("shop.charge", parameters, inputs=inputs)
        saga.commit()
        inputs["more"] = ["x"]
        parameters["rates"]["eu"].append(7)
        operation = step_of(saga).action
        assert operation.options["inputs"] == {"total": ["unused"]}
        assert operation.parameters == {"rates": {"eu": [19]}}


class TestSagaStepDecorator:
    def test_returns_what_it_got(self) -> None:
        assert saga_step(do) is do
        assert saga_step(compensation=compensation)(do) is do

    def test_the_pairing_comes_along(self) -> None:
        def charge(context: Any) -> None: ...

        saga_step(compensation=compensation, name="pay", queue="slow")(charge)
        step = Saga("s").local_step(charge)
        assert step.compensation is not None
        assert step.compensation.callback is compensation
        assert step.name == "pay"
        assert step.action is not None
        assert step.action.options == {"queue": "slow"}

    def test_the_sagas_own_option_takes_precedence(self) -> None:
        def charge(context: Any) -> None: ...

        saga_step(compensation=compensation, name="pay", queue="slow")(charge)
        step = Saga("s").local_step(charge, name="settle", queue="fast", compensation=None)
        assert step.compensation is None
        assert step.name == "settle"
        assert step.action is not None
        assert step.action.options == {"queue": "fast"}

    def test_a_compensation_brings_how_it_is_called_along(self) -> None:
        def refund(context: Any) -> None: ...

        saga_step(queue="slow", max_attempts=9, pivot=True, compensation=do, rate=3)(refund)
        step = Saga("s").local_step(do, compensation=refund)
        assert step.compensation is not None
        assert step.compensation.options == {"queue": "slow", "max_attempts": 9}
        assert step.compensation.parameters == {"rate": 3}
        assert "pivot" not in step.options
