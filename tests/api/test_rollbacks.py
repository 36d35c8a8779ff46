"""Why a compensation runs, and what options say about the end of a rollback."""

from __future__ import annotations

import asyncio

import pytest
from celery import Celery

from celery_saga import (
    AbortSaga,
    DefinitionError,
    Saga,
    SagaManager,
    SagaStatus,
    SagaStuck,
    saga_info,
)
from celery_saga.core.events import RetryRequested
from celery_saga.core.info import Cause
from celery_saga.runtime import runtime_of


class Shop:
    """An eager app, and what its tasks have done."""

    def __init__(self) -> None:
        self.app = Celery("rollbacks", broker="memory://", set_as_current=False)
        self.app.conf.update(task_always_eager=True, saga_store_url="memory://")
        SagaManager(self.app)
        self.done: list[str] = []
        self.causes: list[Cause | None] = []
        self.broken: set[str] = set()

    def task(self, name: str, error: type[Exception] = RuntimeError):
        def body() -> None:
            self.causes.append(saga_info().cause)
            if name in self.broken:
                raise error(f"{name} is broken")
            self.done.append(name)

        return self.app.task(body, name=f"rollbacks.{name}", shared=False)

    def saga(self, last: dict[str, object] | None = None, error=RuntimeError, **options) -> Saga:
        saga = Saga(app=self.app, **options)
        for name in ("a", "b"):
            compensation = self.task(f"back_{name}")
            saga.local_step(self.task(name), name=name).on_failure(compensation, max_attempts=1)
        saga.local_step(self.task("c", error), name="c", **(last or {}))
        return saga.commit()


@pytest.fixture
def shop() -> Shop:
    return Shop()


class TestCause:
    def test_a_compensation_reads_which_step_failed_and_why(self, shop: Shop) -> None:
        shop.broken = {"c"}
        assert shop.saga().delay().failed()
        cause = Cause("c", "builtins.RuntimeError: c is broken", 1)
        assert shop.causes == [None, None, None, cause, cause]

    def test_it_counts_the_attempts(self, shop: Shop) -> None:
        shop.broken = {"c"}
        shop.saga({"retriable": True, "max_attempts": 3, "retry_backoff": 0.01}).delay()
        assert shop.causes[-1] == Cause("c", "builtins.RuntimeError: c is broken", 3)

    def test_of_a_cancel(self, shop: Shop) -> None:
        shop.broken = {"c"}
        result = shop.saga({"on_exhausted": "pause"}).delay()
        shop.causes.clear()
        result.cancel("no longer wanted")
        assert shop.causes == [Cause("c", "Cancelled: no longer wanted")] * 2


class TestOnExhausted:
    def test_a_step_waits_for_an_operator_instead(self, shop: Shop) -> None:
        shop.broken = {"c"}
        result = shop.saga({"on_exhausted": "pause"}).delay()
        with pytest.raises(SagaStuck) as caught:
            result.get()
        assert (caught.value.step, shop.done) == ("c", ["a", "b"])
        shop.broken.clear()
        runtime = runtime_of(shop.app)
        runtime.orchestrator.apply(result.id, RetryRequested(runtime.store.now(), "me"))
        assert (result.status, shop.done) == ("COMPLETED", ["a", "b", "c"])

    def test_its_attempts_are_used_up_first(self, shop: Shop) -> None:
        shop.broken = {"c"}
        retried = {"retriable": True, "max_attempts": 3, "retry_backoff": 0.01}
        result = shop.saga({"on_exhausted": "pause", **retried}).delay()
        assert (result.status, len(shop.causes)) == ("STUCK", 5)

    def test_a_final_failure_rolls_back(self, shop: Shop) -> None:
        shop.broken = {"c"}
        result = shop.saga({"on_exhausted": "pause"}, AbortSaga).delay()
        assert (result.status, shop.done) == ("COMPENSATED", ["a", "b", "back_b", "back_a"])

    def test_a_cancel_rolls_back(self, shop: Shop) -> None:
        shop.broken = {"c"}
        result = shop.saga({"on_exhausted": "pause"}).delay()
        assert result.cancel()
        assert (result.status, shop.done) == ("COMPENSATED", ["a", "b", "back_b", "back_a"])

    def test_an_unknown_word(self, shop: Shop) -> None:
        with pytest.raises(DefinitionError, match="on_exhausted: expected 'compensate' or 'pause'"):
            shop.saga({"on_exhausted": "wait"})


class TestOnCompensationFailure:
    @pytest.mark.parametrize(
        ("what", "done"), [("continue", ["a", "b", "back_a"]), ("stop", ["a", "b"])]
    )
    def test_the_others(self, shop: Shop, what: str, done: list[str]) -> None:
        shop.broken = {"c", "back_b"}
        result = shop.saga(on_compensation_failure=what).delay()
        assert (result.status, shop.done) == ("STUCK", done)

    def test_an_operators_retry_continues(self, shop: Shop) -> None:
        shop.broken = {"c", "back_b"}
        result = shop.saga(on_compensation_failure="stop").delay()
        shop.broken.clear()
        runtime = runtime_of(shop.app)
        runtime.orchestrator.apply(result.id, RetryRequested(runtime.store.now(), "me"))
        assert (result.status, shop.done) == ("COMPENSATED", ["a", "b", "back_b", "back_a"])

    def test_an_unknown_word(self, shop: Shop) -> None:
        with pytest.raises(DefinitionError, match="expected 'continue' or 'stop', found 'halt'"):
            shop.saga(on_compensation_failure="halt")


class TestOutcome:
    def test_why_it_failed_and_how_the_rollback_went(self, shop: Shop) -> None:
        shop.broken = {"c", "back_b"}
        result = shop.saga().delay()
        assert result.failure is not None
        assert (result.failure.step, result.failure.message) == ("c", "c is broken")
        assert dict(result.rollback) == {"a": "COMPENSATED", "b": "COMPENSATION_FAILED"}

    def test_of_a_saga_that_completed(self, shop: Shop) -> None:
        result = shop.saga().delay()
        assert (result.failure, dict(result.rollback)) == (None, {})


def test_a_manager_is_a_context_manager(shop: Shop) -> None:
    saga = shop.saga()

    async def run() -> SagaStatus:
        async with SagaManager(shop.app) as manager:
            return (await manager.run(saga)).status

    assert asyncio.run(run()) is SagaStatus.COMPLETED
