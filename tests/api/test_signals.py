"""Signals in Python: how they are sent and refused, and what eager sagas do that wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_saga import SagaResult
from celery_saga.core.plan import Call, Plan, PlanStep, Sleep, Wait
from celery_saga.errors import (
    ContextTooLarge,
    SagaExecutionNotFoundException,
    SagaNotActionable,
    UnserializableValue,
)
from celery_saga.runtime import runtime_of
from tests.api.shops import Shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.app.close()


def step(name: str) -> PlanStep:
    return PlanStep(name, Call(f"shop.{name}", returns=False))


def started(shop: Shop, *nodes: Any) -> SagaResult:
    """A run of a plan whose first node is a step."""
    plan, runtime = Plan("waiting", (step("take"), *nodes)), runtime_of(shop.app)
    runtime.orchestrator.start(plan, "s", {}, token="t")
    runtime.finish_eagerly("s")
    return shop.manager.get("s")


def waiting(shop: Shop, timeout: float | None = None) -> SagaResult:
    return started(shop, Wait("approval", "approved", timeout, key="approved"), step("pay"))


class TestSignal:
    def test_it_ends_the_wait(self, shop: Shop) -> None:
        result = waiting(shop)
        assert (result.status, result.progress["approval"]) == ("RUNNING", "WAITING")
        assert shop.ran == ["take"]

        assert result.signal("approved", {"by": "ann"}) is True

        assert (result.status, shop.ran) == ("COMPLETED", ["take", "pay"])
        assert result.context["approved"] == {"by": "ann"}

    def test_of_the_manager(self, shop: Shop) -> None:
        result = waiting(shop)

        handle = shop.manager.signal(result.id, "approved", 7, by="ann")

        assert handle == result
        assert result.context["approved"] == 7
        notes = [(it.what, it.by, it.detail) for it in result.execution.history]
        assert notes == [("signal", "ann", "approved")]

    def test_one_that_was_used_changes_nothing(self, shop: Shop) -> None:
        result = waiting(shop)
        result.signal("approved", 1)
        before = result.execution

        assert result.signal("approved", 2) is False
        assert result.execution == before

    def test_to_a_saga_that_has_ended(self, shop: Shop) -> None:
        result = shop.started()
        with pytest.raises(SagaNotActionable, match="COMPLETED: signal does not apply"):
            result.signal("approved")

    def test_to_an_unknown_id(self, shop: Shop) -> None:
        with pytest.raises(SagaExecutionNotFoundException):
            shop.manager.signal("nothing", "approved")

    @pytest.mark.parametrize("name", ["", None, 7], ids=str)
    def test_a_name_that_is_none(self, shop: Shop, name: Any) -> None:
        result = waiting(shop)
        with pytest.raises(ValueError, match="expected the name of a signal"):
            result.signal(name)

    def test_a_payload_that_cannot_be_kept(self, shop: Shop) -> None:
        result = waiting(shop)
        before = result.execution
        shop.app.conf.saga_context_limit = 100

        with pytest.raises(UnserializableValue):
            result.signal("approved", object())
        with pytest.raises(ContextTooLarge):
            result.signal("approved", "x" * 200)
        assert result.execution == before


class TestEagerTime:
    def test_a_sleep_ends_at_once(self, shop: Shop) -> None:
        result = started(shop, Sleep("nap", 86_400.0), step("pay"))
        assert (result.status, shop.ran) == ("COMPLETED", ["take", "pay"])

    def test_a_sleep_behind_a_wait_ends_with_the_call_that_sends_the_signal(
        self, shop: Shop
    ) -> None:
        result = started(shop, Wait("approval", "approved"), Sleep("nap", 5.0), step("pay"))
        shop.manager.signal(result.id, "approved")
        assert (result.status, shop.ran) == ("COMPLETED", ["take", "pay"])

    def test_a_signal_behind_the_timeout_ends_the_saga_by_the_timeout(self, shop: Shop) -> None:
        result = waiting(shop, timeout=5.0)
        shop.time += 5

        with pytest.raises(SagaNotActionable, match="COMPENSATED: signal does not apply"):
            result.signal("approved")

        assert (result.status, shop.ran) == ("COMPENSATED", ["take"])
        assert result.failure is not None
        assert result.failure.type == "celery_saga.errors.SignalTimeout"

    def test_a_wait_does_not_time_out_by_itself(self, shop: Shop) -> None:
        result = waiting(shop, timeout=5.0)
        assert result.status == "RUNNING"
        result.signal("approved")
        assert result.status == "COMPLETED"
