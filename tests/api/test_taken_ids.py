"""An id that is taken: by the same start, which is the same saga, or by another one."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery import Celery

from celery_saga import (
    Saga,
    SagaAlreadyExists,
    SagaExecution,
    SagaManager,
    SagaResult,
    saga_info,
)
from celery_saga.stores.memory import MemoryStore

WHEN = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)


@dataclass
class Shop:
    """An app with two sagas; eager, so that each has changed its context when it is over."""

    manager: SagaManager
    checkout: Saga
    refund: Saga


def new_shop(storage: str | MemoryStore = "memory://") -> Shop:
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_always_eager = True
    manager = SagaManager(app, storage=storage)

    @app.task(name="shop.charge", shared=False)
    def charge(total: Any = None) -> dict[str, Any]:
        return {"total": "changed", "payment": 1}

    checkout, refund = Saga("taken checkout", app=app), Saga("taken refund", app=app)
    for saga in (checkout, refund):
        saga.local_step(charge, name="charge")
        saga.commit()
    return Shop(manager, checkout, refund)


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = new_shop()
    yield found
    found.manager.app.close()


SAME = {
    "nothing": ({}, {}),
    "keys in another order": ({"total": 1, "lines": 2}, {"lines": 2, "total": 1}),
    "inner keys in another order": (
        {"total": [{"a": 1, "b": {"c": 2, "d": 3}}]},
        {"total": [{"b": {"d": 3, "c": 2}, "a": 1}]},
    ),
    "values that JSON lacks": (
        {"total": Decimal("1.10"), "at": WHEN, "raw": b"x", "of": UUID(int=7)},
        {"of": UUID(int=7), "raw": b"x", "at": WHEN, "total": Decimal("1.10")},
    ),
}

OTHER = {
    "another value": ({"total": 1}, {"total": 2}),
    "one key more": ({"total": 1}, {"total": 1, "lines": 2}),
    "one key less": ({"total": 1, "lines": 2}, {"total": 1}),
    "another type": ({"total": 1}, {"total": "1"}),
    "a float": ({"total": 1}, {"total": 1.0}),
    "a list in another order": ({"total": [1, 2]}, {"total": [2, 1]}),
    "what was one value is two": ({"total": "1", "x": ""}, {"total": "", "x": "1"}),
    "an inner value": ({"total": {"a": {"b": 1}}}, {"total": {"a": {"b": 2}}}),
    "another time": ({"at": WHEN}, {"at": WHEN.replace(hour=13)}),
}


@pytest.mark.parametrize(("first", "second"), SAME.values(), ids=SAME)
def test_the_same_start_is_the_same_saga(shop: Shop, first: Any, second: Any) -> None:
    """Also when the saga is over, and its context is another one by now."""
    begun = shop.checkout.apply_async(first, saga_id="order-7")
    again = shop.checkout.apply_async(second, saga_id="order-7")
    assert (begun.created, again.created) == (True, False)
    assert again.id == begun.id
    assert again.context.total == "changed"


@pytest.mark.parametrize(("first", "second"), OTHER.values(), ids=OTHER)
def test_another_context_is_another_saga(shop: Shop, first: Any, second: Any) -> None:
    begun = shop.checkout.apply_async(first, saga_id="order-7")
    before = begun.execution
    with pytest.raises(
        SagaAlreadyExists, match="'taken checkout', which began with another context"
    ):
        shop.checkout.apply_async(second, saga_id="order-7")
    assert begun.execution == before
    found = shop.checkout.apply_async(second, saga_id="order-7", on_duplicate="return_any")
    assert (found, found.created) == (begun, False)


def test_another_saga_of_that_id(shop: Shop) -> None:
    begun = shop.checkout.apply_async({"total": 1}, saga_id="order-7")
    with pytest.raises(SagaAlreadyExists) as error:
        shop.refund.apply_async({"total": 1}, saga_id="order-7")
    assert (error.value.saga_id, error.value.saga_name) == ("order-7", "taken checkout")
    assert "'taken refund'" in str(error.value)
    assert "return_any" in str(error.value)
    found = shop.refund.apply_async({"total": 1}, saga_id="order-7", on_duplicate="return_any")
    assert (found, found.created) == (begun, False)


@pytest.mark.parametrize("context", [{"total": 1}, {"total": 2}])
def test_a_start_without_one_gets_none(shop: Shop, context: Any) -> None:
    shop.checkout.apply_async({"total": 1}, saga_id="order-7")
    with pytest.raises(
        SagaAlreadyExists, match="'order-7' is taken by a run of saga 'taken checkout'"
    ):
        shop.checkout.apply_async(context, saga_id="order-7", on_duplicate="raise")


def test_by_the_manager(shop: Shop) -> None:
    def run(saga: Saga, **options: Any) -> SagaExecution:
        found = asyncio.run(shop.manager.run(saga, {"total": 1}, saga_id="order-7", **options))
        assert isinstance(found, SagaExecution)
        return found

    assert run(shop.checkout) == run(shop.checkout)
    with pytest.raises(SagaAlreadyExists):
        run(shop.refund)
    assert run(shop.refund, on_duplicate="return_any").name == "taken checkout"


def test_by_a_signature_whose_task_id_is_taken(shop: Shop) -> None:
    shop.checkout.s(total=1).apply(task_id="order-7")
    assert shop.checkout.s(total=1).apply(task_id="order-7").get()["total"] == "changed"
    with pytest.raises(SagaAlreadyExists):
        shop.checkout.s(total=2).apply(task_id="order-7").get()
    with pytest.raises(SagaAlreadyExists):
        shop.refund.s(total=1).apply(task_id="order-7").get()


def test_what_a_link_before_it_returned_is_not_compared(shop: Shop) -> None:
    """If that link is delivered twice it may answer otherwise, and it is the same chain."""
    start = shop.checkout.s(total=1)
    start.clone(args=({"n": 1},)).apply(task_id="order-7")
    start.clone(args=({"n": 2},)).apply(task_id="order-7")
    assert shop.manager.get("order-7").context.n == 1


def test_a_call_and_a_message_are_alike(shop: Shop) -> None:
    shop.checkout.apply_async({"total": WHEN}, saga_id="order-7")
    assert shop.checkout.s(total=WHEN).apply(task_id="order-7").get()["payment"] == 1


def test_of_an_imported_saga_the_name_is_compared(shop: Shop) -> None:
    """A saga that an earlier version exported lacks the context that it began with."""
    found = shop.checkout.apply_async({"total": 1}, saga_id="order-7").execution
    other = new_shop()
    try:
        asyncio.run(other.manager.repository.store(replace(found, opened_with="")))
        assert not other.checkout.apply_async({"total": 2}, saga_id="order-7").created
        with pytest.raises(SagaAlreadyExists):
            other.refund.apply_async({"total": 1}, saga_id="order-7")
    finally:
        other.manager.app.close()


def test_an_export_knows_what_it_began_with(shop: Shop) -> None:
    found = shop.checkout.apply_async({"total": 1}, saga_id="order-7").execution
    back = SagaExecution.from_raw(found.raw)
    assert back.opened_with == found.opened_with != ""
    assert shop.checkout.delay(total=1).execution.opened_with == "", "no caller knew its id before"


def test_tests_empty_the_store_in_memory() -> None:
    """Else the primary keys of a database that was rolled back come again as ids."""
    store = MemoryStore()
    shop = new_shop(store)
    try:
        first = shop.checkout.apply_async({"total": 1}, saga_id="order-7")
        store.clear()
        assert shop.refund.apply_async({"total": 2}, saga_id="order-7").created
        assert first.execution.name == "taken refund"
    finally:
        shop.manager.app.close()


def test_an_unknown_word(shop: Shop) -> None:
    with pytest.raises(
        ValueError, match=r"on_duplicate: expected 'return', 'return_any', 'raise' or"
    ):
        shop.checkout.apply_async({}, saga_id="order-7", on_duplicate="ignore")


class TestRestartFailed:
    """``on_duplicate="restart_failed"``."""

    def saga(self, shop: Shop, keys: list[str]) -> Saga:
        saga = Saga("taken order", app=shop.manager.app)

        @shop.manager.app.task(name="shop.reserve", shared=False)
        def reserve() -> None:
            keys.append(saga_info().idempotency_key)

        @shop.manager.app.task(name="shop.release", shared=False)
        def release() -> None:
            keys.append(saga_info().idempotency_key)

        @shop.manager.app.task(name="shop.pay", shared=False)
        def pay(card: str) -> str:
            if card == "bad":
                raise ValueError("declined")
            if card == "stuck":
                raise MemoryError
            return card

        saga.local_step(reserve).on_failure(release)
        saga.local_step(pay)
        return saga.commit()  # type: ignore[no-any-return]

    def start(self, saga: Saga, card: str) -> SagaResult:
        return saga.apply_async({"card": card}, saga_id="order-7", on_duplicate="restart_failed")

    @pytest.mark.parametrize("second", ["good", "bad"])
    def test_one_that_was_compensated_is_started_anew(self, shop: Shop, second: str) -> None:
        keys: list[str] = []
        saga = self.saga(shop, keys)
        assert self.start(saga, "bad").status == "COMPENSATED"
        again = self.start(saga, second)
        assert again.created
        assert again.status == ("COMPLETED" if second == "good" else "COMPENSATED")
        assert again.context.card == second

    def test_its_steps_have_new_keys(self, shop: Shop) -> None:
        """A service knows the old ones, and has taken their effects back."""
        keys: list[str] = []
        saga = self.saga(shop, keys)
        for _ in range(3):
            self.start(saga, "bad")
        turns = [
            f"order-7/{step}/{turn}" for turn in (0, 1, 2) for step in ("reserve/f", "reserve/c")
        ]
        assert keys == turns

    @pytest.mark.parametrize("card", ["good", "stuck"])
    def test_any_other_is_as_it_was(self, shop: Shop, card: str) -> None:
        saga = self.saga(shop, [])
        first = self.start(saga, card)
        assert not self.start(saga, card).created
        with pytest.raises(SagaAlreadyExists, match="began with another context") as error:
            self.start(saga, "another")
        assert error.value.existing == first
        assert error.value.existing.status == first.status

    def test_another_saga_of_that_id_is_not_replaced(self, shop: Shop) -> None:
        first = self.start(self.saga(shop, []), "bad")
        with pytest.raises(SagaAlreadyExists, match="the saga 'taken refund' was to start"):
            shop.refund.apply_async({}, saga_id="order-7", on_duplicate="restart_failed")
        assert first.status == "COMPENSATED"

    def test_without_an_id_there_is_nothing_to_replace(self, shop: Shop) -> None:
        given = {"card": "good"}
        assert self.saga(shop, []).apply_async(given, on_duplicate="restart_failed").created


def test_the_error_has_the_run_that_exists(shop: Shop) -> None:
    first = shop.checkout.apply_async({"total": 1}, saga_id="order-7")
    with pytest.raises(SagaAlreadyExists) as error:
        shop.refund.apply_async({"total": 1}, saga_id="order-7")
    existing = error.value.existing
    assert (existing.id, existing.status, existing.name) == ("order-7", "COMPLETED", first.name)
    assert existing.execution == first.execution
    assert not existing.created
    copied = pickle.loads(pickle.dumps(error.value))
    assert (str(copied), copied.existing) == (str(error.value), None)
