"""The warning for an undo that cannot run when its own step's answer was lost."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from celery_saga import LocalSagaStep, Saga
from celery_saga.errors import DefinitionWarning
from tests.unit.building import new_app, plan_of

app = new_app("warnings")


@app.task(name="warnings.charge", shared=False)
def charge(total: float) -> None: ...


@app.task(name="warnings.refund", shared=False)
def refund(payment: str) -> None: ...


@app.task(name="warnings.ship", shared=False)
def ship(address: str = "") -> None: ...


@app.task(name="warnings.find", shared=False)
def find(payment: str = "") -> None: ...


def plain(context: Any) -> None: ...


Saga("warnings", steps=[plain]).commit()

step = LocalSagaStep


def warned(saga: Saga) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan_of(saga, app)
    return [str(one.message) for one in caught if one.category is DefinitionWarning]


class TestWarning:
    def test_an_undo_that_requires_what_only_its_own_step_returns(self) -> None:
        (text,) = warned(Saga("order", steps=[step(charge, refund, returns="payment")]))
        for part in (
            "'order'",
            "'charge'",
            "'warnings.refund'",
            "'payment'",
            "forward_key",
            "gets stuck",
        ):
            assert part in text

    def test_what_is_stored_under_the_steps_own_name(self) -> None:
        (text,) = warned(Saga("order", steps=[step(charge, refund, name="payment")]))
        assert "'payment'" in text

    def test_a_path_into_the_result(self) -> None:
        saga = Saga("order")
        saga.local_step(charge, returns="answer").on_failure(
            refund, inputs={"payment": ("answer", "id")}
        )
        assert len(warned(saga)) == 1

    @pytest.mark.parametrize(
        "steps",
        [
            [step(charge, find, returns="payment")],
            [step(charge, refund, returns="other")],
            [step(charge, refund, returns=False, name="payment")],
            [step(charge, refund)],
            [step(ship, name="payment"), step(charge, refund, returns="payment")],
            [step(ship, returns="payment"), step(charge, refund, returns="payment")],
            [step(refund, refund, returns="payment")],
            [step(plain, refund, name="payment")],
            [step(charge, plain, returns="payment")],
        ],
    )
    def test_not_if_the_key_can_come_from_elsewhere_or_is_not_needed(
        self, steps: list[Any]
    ) -> None:
        assert warned(Saga("order", steps=[_again(one) for one in steps])) == []

    def test_not_for_a_constant(self) -> None:
        saga = Saga("order")
        saga.local_step(charge, returns="payment").on_failure(refund, {"payment": "p"})
        assert warned(saga) == []

    def test_can_be_made_an_error(self) -> None:
        saga = Saga("order", steps=[step(charge, refund, returns="payment")])
        with pytest.raises(DefinitionWarning):
            plan_of(saga, app)


def _again(one: LocalSagaStep) -> LocalSagaStep:
    copy = LocalSagaStep(one.action, **one.options)
    return copy.on_failure(one.compensation) if one.compensation else copy
