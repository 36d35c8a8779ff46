"""What operators see of sagas with branches and loops, and what their verbs do to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_saga import LocalSagaStep, Saga, SagaManager, SagaResult, saga_info
from celery_saga.core.views.overview import view
from celery_saga.stores.memory import MemoryStore


class Shop:
    """An app whose steps fail as the context says."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.app = app = Celery("trees", broker="memory://", set_as_current=False)
        app.conf.update(task_always_eager=True, task_acks_late=True)
        self.manager = SagaManager(app, storage=MemoryStore())
        ran = self.ran

        @app.task(name="do", shared=False)
        def do(fail: list[str] | None = None) -> str:
            step = saga_info().step
            if step in (fail or ()):
                raise ValueError("declined")
            ran.append(step)
            return step

        @app.task(name="back", shared=False)
        def back(item: Any = None, fail: list[str] | None = None) -> None:
            if f"back {item}" in (fail or ()):
                raise ValueError("not compensated")
            ran.append(f"back {item}")

        @app.task(name="large", shared=False)
        def large(total: int) -> bool:
            return total > 100

        self.do, self.back, self.large = do, back, large

    def step(self, name: str) -> LocalSagaStep:
        return LocalSagaStep(self.do, name=name)

    def started(self, saga: Saga, **context: Any) -> SagaResult:
        result = saga.commit().delay(**context)
        assert result.status == "STUCK"
        self.ran.clear()
        return result


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.app.close()


def past_its_pivot(shop: Shop) -> Saga:
    return Saga("late", steps=[LocalSagaStep(shop.do, name="pivot", pivot=True)], app=shop.app)


class TestALoopOverNoList:
    @pytest.fixture
    def result(self, shop: Shop) -> SagaResult:
        saga = past_its_pivot(shop)
        saga.for_each("items", shop.step("ship")).local_step(shop.step("z"))
        return shop.started(saga, items=7)

    def test_is_shown(self, result: SagaResult) -> None:
        seen = view(result.execution, "shop")
        assert seen["step"] == "for_each"
        assert "expected a list at context['items']" in seen["cause"]

    def test_a_retry_with_a_list(self, shop: Shop, result: SagaResult) -> None:
        shop.manager.retry(result.id, {"items": [1, 2]})
        assert result.status == "COMPLETED"
        assert shop.ran == ["ship[0]", "ship[1]", "z"]

    def test_a_skip(self, shop: Shop, result: SagaResult) -> None:
        shop.manager.skip(result.id)
        assert result.status == "COMPLETED"
        assert shop.ran == ["z"]


class TestACondition:
    @pytest.fixture
    def result(self, shop: Shop) -> SagaResult:
        saga = past_its_pivot(shop)
        choice = saga.conditional_step(name="way").if_then(
            shop.large, shop.step("a"), max_attempts=1
        )
        choice.else_then(shop.step("b"))
        return shop.started(saga, total="many")

    def test_a_retry_with_another_context(self, shop: Shop, result: SagaResult) -> None:
        assert view(result.execution, "shop")["step"] == "way"
        shop.manager.retry(result.id, {"total": 7})
        assert (result.status.value, shop.ran) == ("COMPLETED", ["b"])

    def test_a_skip_skips_the_alternatives(self, shop: Shop, result: SagaResult) -> None:
        shop.manager.skip(result.id)
        assert (result.status.value, shop.ran) == ("COMPLETED", [])


class TestACompensationOfAnItem:
    @pytest.fixture
    def result(self, shop: Shop) -> SagaResult:
        saga = Saga("items", app=shop.app)
        body = shop.step("ship").on_failure(shop.back, max_attempts=1)
        saga.for_each("items", body, parallel=True).local_step(shop.step("z"))
        return shop.started(saga, items=["x", "y"], fail=["z", "back y"])

    def test_is_shown_with_its_number(self, result: SagaResult) -> None:
        seen = view(result.execution, "shop")
        assert seen["step"] == "ship[1]"
        assert [step["step"] for step in seen["steps"]] == ["ship[0]", "ship[1]", "z"]

    def test_a_retry_with_another_context(self, shop: Shop, result: SagaResult) -> None:
        shop.manager.retry(result.id, {"fail": []})
        assert (result.status.value, shop.ran) == ("COMPENSATED", ["back y"])

    def test_a_corrected_item(self, shop: Shop, result: SagaResult) -> None:
        """Promise 13: it holds for the step that is blocked, whose item is in its own scope."""
        shop.manager.retry(result.id, {"item": "other"})
        assert (result.status.value, shop.ran) == ("COMPENSATED", ["back other"])

    def test_a_skip(self, shop: Shop, result: SagaResult) -> None:
        shop.manager.skip(result.id)
        assert (result.status.value, shop.ran) == ("COMPENSATED", [])
