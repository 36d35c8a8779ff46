"""Warnings of what will go wrong in a bad moment, at the user's line."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
from celery import Celery, shared_task

from celery_saga import LocalSagaStep, Saga, SagaManager
from celery_saga.errors import DefinitionWarning
from tests.definition.building import new_app, plan_of

app = new_app("warnings")


@app.task(name="warnings.charge", shared=False, acks_late=True)
def charge(total: float) -> None: ...


@app.task(name="warnings.refund", shared=False)
def refund(payment: str) -> None: ...


@app.task(name="warnings.ship", shared=False, acks_late=True)
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
    def test_a_compensation_that_requires_what_only_its_own_step_returns(self) -> None:
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


def warnings_of(saga: Saga) -> list[tuple[str, str, int]]:
    """Text, file and line of the warnings that a commit gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        saga.commit()
    found = [one for one in caught if one.category is DefinitionWarning]
    return [(str(one.message), one.filename, one.lineno) for one in found]


def lazily(**conf: Any) -> Any:
    """An app as a module has it that is being imported: nothing of it is read or made yet."""
    found = Celery("lazily", broker="memory://", set_as_current=False)
    found.conf.update(conf)
    SagaManager(found)
    return found


def nothing(order_id: int) -> None: ...


class TestAnEffectThatIsUnknown:
    def test_is_warned_of_at_the_line_of_the_step(self) -> None:
        lazy = lazily()
        task = lazy.task(nothing, shared=False)
        saga = Saga("parcels")
        saga.local_step(task)
        line = sys._getframe().f_lineno - 1

        ((text, file, number),) = warnings_of(saga)

        assert (file, number) == (__file__, line)
        for part in ("'parcels'", "'nothing'", "acks_late=True", ".on_failure()", "read_only=True"):
            assert part in text
        assert not lazy.finalized
        assert not task.__evaluated__()

    @pytest.mark.parametrize(
        ("task", "step", "expected"),
        [
            ({"acks_late": True}, {}, 0),
            ({"acks_late": False}, {}, 1),
            ({"acks_late": True}, {"on_lost": "compensate"}, 1),
            ({}, {"on_lost": "rerun"}, 0),
            ({}, {"read_only": True}, 0),
            ({}, {"pivot": True}, 0),
        ],
    )
    def test_what_is_run_again_or_changes_nothing_needs_no_warning(
        self, task: dict[str, Any], step: dict[str, Any], expected: int
    ) -> None:
        saga = Saga("parcels")
        saga.local_step(lazily().task(shared=False, **task)(nothing), **step)
        assert len(warnings_of(saga)) == expected

    def test_nor_does_what_is_compensated(self) -> None:
        lazy = lazily()
        saga = Saga("parcels")
        saga.local_step(lazy.task(nothing, shared=False)).on_failure(
            lazy.task(name="compensate", shared=False)(nothing)
        )
        assert warnings_of(saga) == []

    def test_where_the_setting_says_late_ack(self) -> None:
        lazy = lazily(task_acks_late=True)
        assert warnings_of(Saga("parcels", steps=[lazy.task(nothing, shared=False)])) == []
        plan_of(Saga("parcels", steps=[lazy.task(nothing, shared=False)]), lazy)

    def test_what_only_the_configuration_knows_is_said_when_the_plan_is_made(self) -> None:
        lazy = lazily()
        lazy.config_from_object({"task_acks_late": False})
        saga = Saga("parcels")
        saga.local_step(lazy.task(nothing, shared=False))
        line = sys._getframe().f_lineno - 1
        assert warnings_of(saga) == []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plan_of(saga, lazy)
            plan_of(saga, lazy)
        (one,) = [one for one in caught if one.category is DefinitionWarning]
        assert (one.filename, one.lineno) == (__file__, line)

    def test_a_shared_task(self) -> None:
        lazily()

        def parcel(order_id: int) -> None: ...

        saga = Saga("parcels", steps=[shared_task(acks_late=False, name="w.parcel")(parcel)])
        assert len(warnings_of(saga)) == 1


class TestKeysThatAreReplaced:
    @pytest.mark.parametrize("made", [False, True], ids=["lazy", "made"])
    def test_a_key_that_another_step_reads(self, made: bool) -> None:
        lazy = lazily(task_acks_late=True)

        @lazy.task(shared=False)
        def quote(total: float) -> float: ...

        @lazy.task(shared=False)
        def reserve(order_id: int) -> str: ...

        @lazy.task(shared=False)
        def pay(quote: str) -> None: ...

        if made:
            lazy.finalize()
        saga = Saga("replaced")
        saga.local_step(quote, returns="quote")
        saga.local_step(reserve, returns="quote")
        line = sys._getframe().f_lineno - 1
        saga.local_step(pay)

        ((text, file, number),) = warnings_of(saga)

        assert (file, number) == (__file__, line)
        for part in ("'replaced'", "'reserve'", "'quote'", "'pay'", "returns="):
            assert part in text

    @pytest.mark.parametrize(
        "steps",
        [
            [step(charge, returns="total")],  # it reads the key itself
            [step(ship, returns="a"), step(charge, returns="a")],  # no step reads it
            [step(ship, returns="a"), step(ship, returns="b"), step(ship)],
        ],
    )
    def test_not_what_is_meant_so(self, steps: list[Any]) -> None:
        assert warned(Saga("order", steps=[_again(one) for one in steps])) == []


class TestDottedKeys:
    """A key with a dot is not a path: the parameter's default would apply in each run."""

    @pytest.mark.parametrize(
        "made",
        [step(ship, inputs={"address": "order.address"}), step(charge, find, returns="x")],
        ids=["of a step", "none"],
    )
    def test_of_a_step(self, made: LocalSagaStep) -> None:
        texts = warned(Saga("order", steps=[made]))
        if made.name == "charge":
            assert texts == []
            return
        (text,) = texts
        assert "step 'ship': inputs['address'] is the context key 'order.address'" in text
        assert "a path into a value is a tuple, ('order', 'address')" in text

    def test_of_a_compensation(self) -> None:
        made = step(charge).on_failure(find, inputs={"payment": "payment.id"})
        (text,) = warned(Saga("order", steps=[made]))
        assert "inputs['payment'] is the context key 'payment.id'" in text

    def test_not_if_a_step_writes_that_key_or_the_parameter_is_required(self) -> None:
        written = step(charge, returns="order.address")
        read = step(ship, inputs={"address": "order.address"})
        required = step(charge, name="again", inputs={"total": "order.total"})
        assert warned(Saga("order", steps=[written, read, required])) == []
