"""What a newcomer reads first: one idea a test, on a real worker."""

from __future__ import annotations

from typing import Any

import pytest

from celery_saga import SagaCompensated, SagaContext, SagaStatus, StepStatus

KETTLE = [{"sku": "kettle", "price": 24.5, "quantity": 2}]


def test_a_saga_runs_its_steps_and_returns_the_context(shop: Any) -> None:
    result = shop.checkout.delay(order_id=1, items=KETTLE)
    context = result.get(timeout=30)
    assert isinstance(context, SagaContext)
    assert context.total == 49.0
    assert context.reservation == "r-1"
    assert context.payment_id == "p-1"
    assert result.status is SagaStatus.COMPLETED
    assert shop.world.hget("shipped", 1) == "NL"


def test_after_a_failing_step_the_ones_before_it_are_compensated(shop: Any) -> None:
    expensive = [{"sku": "clock", "price": 2000.0, "quantity": 1}]
    result = shop.checkout.delay(order_id=2, items=expensive)
    with pytest.raises(SagaCompensated, match=r"charge_card.*declined"):
        result.get(timeout=30)
    assert not shop.world.hexists("reserved", "r-2")
    assert result.progress["reserve_stock"] is StepStatus.COMPENSATED
    assert result.progress["charge_card"] is StepStatus.FAILED


def test_a_step_can_end_the_way_forward_at_once(shop: Any) -> None:
    result = shop.checkout.delay(order_id=3, items=KETTLE, country="Atlantis")
    with pytest.raises(SagaCompensated, match="no delivery to Atlantis"):
        result.get(timeout=30)
    assert not shop.world.hexists("charged", f"{result.id}/charge_card/f/0")


def test_the_same_id_is_the_same_saga(shop: Any) -> None:
    first = shop.checkout.apply_async({"order_id": 4, "items": KETTLE}, saga_id="order-4")
    second = shop.checkout.apply_async({"order_id": 4, "items": KETTLE}, saga_id="order-4")
    assert (first.created, second.created) == (True, False)
    assert first.get(timeout=30) == second.get(timeout=30)


def test_a_saga_is_found_again_by_its_id(shop: Any) -> None:
    shop.checkout.apply_async({"order_id": 5, "items": KETTLE}, saga_id="order-5").get(timeout=30)
    again = shop.sagas.get("order-5")
    assert again.successful()
    assert again.context.order_id == 5


def test_the_tasks_stay_ordinary_tasks(shop: Any) -> None:
    assert shop.reserve_stock.delay(6, quantity=3).get(timeout=30) == "r-6"
    assert shop.reserve_stock(7) == "r-7"


def test_a_saga_prints_as_its_plan(shop: Any) -> None:
    assert repr(shop.checkout) == (
        "<Saga checkout: add_up -> reserve_stock <-> release_stock -> "
        "charge_card <-> refund_card -> ship_order>"
    )
