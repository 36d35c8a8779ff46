"""Models of contexts on a real worker."""

from __future__ import annotations

import importlib
from decimal import Decimal
from typing import Any

import pytest

from celery_saga import ContextInvalid, SagaCompensated

pytestmark = pytest.mark.worker


@pytest.fixture
def typed(flows: Any) -> Any:
    """The sagas; their app becomes the current one of the process that imports it."""
    return importlib.import_module("tests.worker.apps.typed")


def lines(*prices: str) -> list[dict[str, Any]]:
    return [{"sku": "A", "price": Decimal(price)} for price in prices]


def test_each_task_gets_what_the_model_says(typed: Any, journal: Any) -> None:
    result = typed.checkout.delay(order_id="7", lines=lines("10.50", "2"))
    order = result.get(timeout=30)
    assert order == typed.Order(
        order_id=7, lines=lines("10.50", "2"), total="12.50", payment_id="p-1"
    )
    added, paid = journal.of(result.id)
    assert added["kind"] == "Order"
    assert (paid["kind"], paid["total"], paid["currency"]) == ("Decimal", "12.50", "EUR")


def test_what_a_step_returns_and_does_not_fit_is_compensated(typed: Any, journal: Any) -> None:
    result = typed.checkout.delay(order_id=7, lines=lines("200"))
    with pytest.raises(SagaCompensated) as caught:
        result.get(timeout=30)
    assert isinstance(caught.value.exception, ContextInvalid)
    assert "payment_id: Input should be a valid string" in str(caught.value)
    assert journal.began(result.id) == ["add_up/f", "pay/f", "pay/c"]


def test_a_dataclass_and_a_start_by_message(typed: Any) -> None:
    assert typed.trip.delay(city="Rome").get(timeout=30) == typed.Trip("Rome", 2, "Rome-hotel")
    assert typed.trip.s(city="Oslo").delay().get(timeout=30)["hotel_id"] == "Oslo-hotel"
    with pytest.raises(ContextInvalid, match="nights: expected int, found str"):
        typed.trip.s(city="Oslo", nights="two").delay().get(timeout=30)
