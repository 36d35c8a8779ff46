"""Sagas whose context has a model: at the start, after each step, in tasks, and in the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery
from pydantic import BaseModel, model_validator

from celery_saga import (
    ContextInvalid,
    LocalSagaStep,
    NestedSagaStep,
    Saga,
    SagaAlreadyExists,
    SagaCompensated,
    SagaContext,
    SagaManager,
    saga_step,
)
from celery_saga.definition import contexts
from celery_saga.definition.contexts import running


class Order(BaseModel):
    order_id: int
    total: float
    currency: str = "EUR"
    payment_id: str | None = None
    parcels: list[str] | None = None


@dataclass
class Quote:
    amount: float
    quote_id: str | None = None


class Shop:
    """An app whose sagas run in the calling process, and what its bodies have got."""

    def __init__(self) -> None:
        self.app = Celery("typed", broker="memory://", set_as_current=False)
        self.app.conf.update(task_always_eager=True, saga_store_url="memory://")
        self.manager = SagaManager(self.app)
        self.calls: list[Any] = []

    def task(self, body: Any, **options: Any) -> Any:
        return self.app.task(body, name=f"typed.{body.__name__}", shared=False, **options)

    def returns(self, name: str, value: Any) -> Any:
        def body(amount: Any = None, order_id: Any = None) -> Any:
            return value

        body.__name__ = name
        return self.task(body, acks_late=True)

    def compensates(self, name: str) -> Any:
        def body() -> None:
            self.calls.append(name)

        body.__name__ = name
        return self.task(body)


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.app.close()


def one_step(shop: Shop, value: Any, key: str = "payment_id", cls: Any = Order) -> Saga[Any]:
    saga = Saga("typed", app=shop.app, context=cls)
    step = saga.local_step(shop.returns("pay", value), returns=key, name="pay")
    step.on_failure(shop.compensates("refund"))
    return saga.commit()


class TestStart:
    def test_the_result_is_an_instance(self, shop: Shop) -> None:
        result = one_step(shop, "p-1").delay(order_id="7", total=9)
        order = result.get()
        assert order == Order(order_id=7, total=9.0, payment_id="p-1")
        assert result.context == order
        assert result.execution.context == {
            "order_id": 7, "total": 9.0, "currency": "EUR", "payment_id": "p-1",
        }  # fmt: skip

    def test_nothing_is_started_that_does_not_fit(self, shop: Shop) -> None:
        with pytest.raises(ContextInvalid, match=r"Order: total: .*valid number"):
            one_step(shop, "p-1").apply_async({"order_id": 7, "total": "x"}, saga_id="typed-1")
        assert not list(shop.manager.list())

    def test_an_instance_starts_it(self, shop: Shop) -> None:
        order = Order(order_id=7, total=9.5)
        assert one_step(shop, "p").apply_async(order).get().payment_id == "p"

    def test_by_its_name(self, shop: Shop) -> None:
        saga = one_step(shop, "p")
        assert saga.s(order_id=7, total="9.5").apply().get()["total"] == 9.5
        assert saga.signature(Order(order_id=7, total=9.5)).apply().get()["total"] == 9.5
        with pytest.raises(ContextInvalid, match="total"):
            saga.s(order_id=7).apply(throw=True).get()

    def test_the_same_start_twice(self, shop: Shop) -> None:
        saga = one_step(shop, "p")
        first = saga.apply_async({"order_id": 7, "total": 9.5}, saga_id="twice")
        again = saga.apply_async({"order_id": "7", "total": 9.5}, saga_id="twice")
        assert (first.created, again.created) == (True, False)
        with pytest.raises(SagaAlreadyExists):
            saga.apply_async({"order_id": 8, "total": 9.5}, saga_id="twice")

    def test_a_handle_of_an_id(self, shop: Shop) -> None:
        saga = one_step(shop, "p")
        saga_id = saga.delay(order_id=7, total=9.5).id
        assert shop.manager.get(saga_id, saga).get().payment_id == "p"
        assert isinstance(shop.manager.get(saga_id).get(), SagaContext)


class TestAfterAStep:
    def test_what_does_not_fit_compensates_the_step(self, shop: Shop) -> None:
        saga = one_step(shop, 5)
        with pytest.raises(SagaCompensated) as caught:
            saga.delay(order_id=7, total=9.5).get()
        assert isinstance(caught.value.exception, ContextInvalid)
        assert "Order: payment_id: " in str(caught.value)
        assert shop.calls == ["refund"]

    def test_it_is_kept_as_the_model_reads_it(self, shop: Shop) -> None:
        found = one_step(shop, "12.5", key="total").delay(order_id=7, total=1).execution.context
        assert found.total == 12.5

    def test_a_key_without_a_field_is_free(self, shop: Shop) -> None:
        found = one_step(shop, [1, "x"], key="note").delay(order_id=7, total=1).execution.context
        assert found.note == [1, "x"]

    def test_fields_that_do_not_fit_together(self, shop: Shop) -> None:
        class Range(BaseModel):
            order_id: int
            low: int = 0
            high: int = 9

            @model_validator(mode="after")
            def ordered(self) -> Range:
                if self.low > self.high:
                    raise ValueError("low is above high")
                return self

        with pytest.raises(SagaCompensated, match=r"Range: Value error, low is above high"):
            one_step(shop, 10, key="low", cls=Range).delay(order_id=7).get()

    def test_a_worker_without_the_model_warns(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saga, warned = one_step(shop, 5), list[str]()

        def warning(text: str, *args: Any) -> None:
            warned.append(text % args)

        monkeypatch.setattr(contexts, "_known", {})
        running._warn_once.cache_clear()  # another test may have had this saga
        # What other tests have done to the log in this process does not matter here.
        monkeypatch.setattr(running.log, "warning", warning)
        execution = saga.delay(order_id=7, total=9.5).execution
        assert execution.context.payment_id == 5
        (text,) = warned
        assert "what its steps write is not validated against" in text
        assert "put the saga into sagas.py" in text
        with pytest.raises(ContextInvalid, match="payment_id"):
            shop.manager.get(execution.saga_id, saga).get()


def annotated_with(shop: Shop, change: Any, **options: Any) -> Saga[Any]:
    """A saga of one task that gets an instance."""

    def body(order: Any) -> Any:
        shop.calls.append(type(order))
        return change(order)

    body.__annotations__ = {"order": Order}
    saga = Saga("typed", app=shop.app, context=Order)
    step = saga.local_step(shop.task(body, acks_late=True, **options), name="change")
    step.on_failure(shop.compensates("revert"))
    return saga.commit()


def set_payment(order: Order) -> None:
    order.payment_id = "p"


seen: list[Any] = []


@saga_step
def is_large(order: Order) -> bool:
    seen.append(order.total)
    return order.total > 5


@saga_step
def refund_order(order: Order) -> None:
    seen.append(order.payment_id)


@saga_step
def pay_order(order: Order) -> Order:
    return order.model_copy(update={"payment_id": "p"})


class TestTasksThatGetAnInstance:
    """Whatever such a task returns, keys that it does not know stay as they are."""

    @pytest.mark.parametrize(
        "change",
        [
            set_payment,
            lambda order: set_payment(order) or True,
            lambda order: set_payment(order) or order,
            lambda order: order.model_copy(update={"payment_id": "p"}),
            lambda order: {"payment_id": "p"},
            lambda order: SagaContext(payment_id="p"),
        ],
        ids=["in place", "True", "itself", "a copy", "a dict", "a SagaContext"],
    )
    def test_what_it_returns(self, shop: Shop, change: Any) -> None:
        result = annotated_with(shop, change).delay(order_id=7, total=9.5, note="kept")
        assert shop.calls == [Order]
        assert result.get().payment_id == "p"
        assert result.execution.context["note"] == "kept"

    @pytest.mark.parametrize("value", [5, "text", [1]])
    def test_what_it_cannot_return(self, shop: Shop, value: Any) -> None:
        with pytest.raises(SagaCompensated, match="expected a SagaContext, a mapping"):
            annotated_with(shop, lambda order: value).delay(order_id=7, total=9.5).get()

    def test_a_task_of_celerys_pydantic_mode(self, shop: Shop) -> None:
        saga = annotated_with(shop, lambda order: set_payment(order) or order, pydantic=True)
        result = saga.delay(order_id=7, total=9.5, note="kept")
        assert result.get().payment_id == "p"
        assert result.execution.context["note"] == "kept"

    def test_plain_functions_a_condition_and_a_compensation(self, shop: Shop) -> None:
        seen.clear()
        saga = Saga("typed-functions", app=shop.app, context=Order)
        saga.local_step(pay_order).on_failure(refund_order)
        saga.conditional_step().if_then(is_large, shop.returns("large", 5))
        saga.local_step(shop.returns("total", "much")).on_failure(shop.compensates("total"))
        with pytest.raises(SagaCompensated, match="total"):
            saga.commit().delay(order_id=7, total=9.5).get()
        assert seen == [9.5, "p"]

    def test_one_that_does_not_fit_fails_the_step_before_its_body(self, shop: Shop) -> None:
        def quote(quote: Any) -> None:
            shop.calls.append("quote")

        quote.__annotations__ = {"quote": Quote}
        inner = Saga("inner", app=shop.app, context=Quote)
        inner.local_step(shop.task(quote)).on_failure(shop.compensates("unquote"))
        saga = Saga("outer", app=shop.app, context=Order)
        saga.nested_step(inner.commit(), inputs=["order_id"])
        with pytest.raises(SagaCompensated, match=r"Quote: amount: is missing"):
            saga.commit().delay(order_id=7, total=9.5).get()
        assert shop.calls == []

    def test_a_worker_that_has_the_task_and_not_the_saga(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saga = annotated_with(shop, set_payment)
        monkeypatch.setattr(contexts, "_known", {})
        assert saga.delay(order_id=7, total=9.5).execution.context.payment_id == "p"


class TestInTrees:
    """Against which models a write is checked."""

    def inner(self, shop: Shop, value: Any, cls: Any = None) -> Saga[Any]:
        saga = Saga("inner", app=shop.app, context=cls)
        step = saga.local_step(shop.returns("quote", value), name="quote", returns="quote_id")
        step.on_failure(shop.compensates("unquote"))
        return saga.commit()

    def outer(self, shop: Shop, *, fails: bool, build: Any) -> None:
        saga = Saga("outer", app=shop.app, context=Order)
        build(saga)
        saga.commit()
        result = saga.delay(order_id=7, total=9.5, amount=1.0, items=["a", "b"])
        assert result.failed() is fails, result.execution
        if fails:
            with pytest.raises(SagaCompensated, match="the context does not fit"):
                result.get()

    @pytest.mark.parametrize(("value", "fails"), [("p", False), (5, True)])
    @pytest.mark.parametrize(
        "place",
        ["branch", "alternative", "nested", "body"],
    )
    def test_writes_of_the_outer_model(
        self, shop: Shop, place: str, value: Any, fails: bool
    ) -> None:
        pay = LocalSagaStep(shop.returns("pay", value), returns="payment_id", name="pay")
        pay.on_failure(shop.compensates("refund"))
        inner = Saga("plain", app=shop.app)
        inner.local_step(pay)
        inner.commit()
        build = {
            "branch": lambda saga: saga.parallel_step(inner, shop.returns("other", None)),
            "alternative": lambda saga: saga.conditional_step().if_then(
                shop.returns("yes", True), inner
            ),
            "nested": lambda saga: saga.nested_step(inner),
            # What items write becomes a list: the model of the saga says nothing about one of them.
            "body": lambda saga: saga.for_each("items", inner, returns="payment_id"),
        }[place]
        if place == "body":
            saga = Saga("loop", app=shop.app, context=Order)
            build(saga)
            execution = saga.commit().delay(order_id=7, total=1, items=["a"]).execution
            assert execution.context.payment_id == [value]
            return
        self.outer(shop, fails=fails, build=build)

    @pytest.mark.parametrize(("value", "fails"), [("q", False), (5, True)])
    @pytest.mark.parametrize("scoped", [True, False])
    def test_a_nested_saga_has_its_own_model(
        self, shop: Shop, value: Any, fails: bool, scoped: bool
    ) -> None:
        inner = self.inner(shop, value, Quote)
        options: dict[str, Any] = {"inputs": ["amount"], "returns": ["quote_id"]} if scoped else {}
        self.outer(shop, fails=fails, build=lambda saga: saga.nested_step(inner, **options))

    def test_names_inside_of_a_scope_are_its_own(self, shop: Shop) -> None:
        inner = Saga("scoped", app=shop.app)
        inner.local_step(shop.returns("total", "a text"), returns="total")
        step = NestedSagaStep(inner.commit(), inputs=["order_id"], returns={"note": "total"})
        self.outer(shop, fails=False, build=lambda saga: saga.parallel_step(step))
