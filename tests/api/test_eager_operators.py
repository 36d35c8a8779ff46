"""Eager sagas that an operator or a caller continues: they run on to their ends in that call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager, SagaResult, saga_info
from celery_saga.core import info
from celery_saga.core.info import SagaInfo
from celery_saga.errors import SagaExecutionException
from celery_saga.stores.memory import MemoryStore

numbers = itertools.count()


class Shop:
    """An app whose steps fail a number of times, and whose compensations have delays.

    Args:
        always: whether ``task_always_eager`` is set; otherwise sagas are started by ``.apply()``.
    """

    def __init__(self, always: bool) -> None:
        self.ran: list[str] = []
        self.fails: dict[str, int] = {}
        self.app = Celery("shop", broker="memory://", set_as_current=False)
        self.app.conf.update(task_always_eager=always, task_acks_late=True)
        self.always = always
        self.manager = SagaManager(self.app, storage=MemoryStore())
        for name in ("take", "give_back", "pay", "ship"):
            self.task(name)

    def task(self, name: str) -> None:
        def body() -> None:
            self.ran.append(name)
            if self.fails.get(name, 0):
                self.fails[name] -= 1
                raise RuntimeError(f"{name} is out of order")

        self.app.task(body, name=f"shop.{name}", shared=False)

    def __getattr__(self, name: str) -> Any:
        return self.app.tasks[f"shop.{name}"]

    def new(self) -> Any:
        saga = Saga(f"orders-{next(numbers)}", app=self.app)
        return saga.local_step(self.take).on_failure(self.give_back, retry_backoff=60)

    def started(self, saga: Any) -> SagaResult:
        committed = saga.commit()
        if self.always:
            return committed.delay()  # type: ignore[no-any-return]
        done = committed.s().apply()
        return self.manager.get(done.id)


@pytest.fixture(params=[True, False], ids=["always eager", "apply"])
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    found = Shop(request.param)
    yield found
    found.app.close()


def a_wait(shop: Shop) -> SagaResult:
    result = shop.started(shop.new().wait_for("approved").sleep_step(3600).local_step(shop.pay))
    assert (result.status, shop.ran) == ("RUNNING", ["take"])
    return result


def a_pause(shop: Shop) -> SagaResult:
    result = a_wait(shop)
    shop.manager.pause(result.id)
    shop.manager.signal(result.id, "approved")
    assert result.status == "PAUSED"
    return result


def stuck_forward(shop: Shop) -> SagaResult:
    shop.fails["pay"] = 1
    saga = shop.new().local_step(shop.pay, on_exhausted="pause")
    result = shop.started(saga.sleep_step(60).local_step(shop.ship))
    assert result.status == "STUCK"
    return result


def stuck_back(shop: Shop) -> SagaResult:
    shop.fails.update(pay=1, give_back=5)
    result = shop.started(shop.new().local_step(shop.pay))
    assert result.status == "STUCK"
    shop.fails["give_back"] = 2
    return result


#: What an eager saga waits for, what is asked then, and what has run at its end.
ROWS: dict[str, tuple[Callable[[Shop], SagaResult], Callable[[Any, str], Any], str, list[str]]] = {
    "signal": (a_wait, lambda m, id: m.signal(id, "approved"), "COMPLETED", ["take", "pay"]),
    "cancel of a wait": (a_wait, lambda m, id: m.cancel(id), "COMPENSATED", ["take", "give_back"]),
    "signal of a handle": (
        a_wait,
        lambda m, id: m.get(id).signal("approved"),
        "COMPLETED",
        ["take", "pay"],
    ),
    "revoke of a handle": (
        a_wait,
        lambda m, id: m.get(id).revoke(),
        "COMPENSATED",
        ["take", "give_back"],
    ),
    "resume": (a_pause, lambda m, id: m.resume(id), "COMPLETED", ["take", "pay"]),
    "cancel of a pause": (
        a_pause,
        lambda m, id: m.cancel(id),
        "COMPENSATED",
        ["take", "give_back"],
    ),
    "retry of a step": (
        stuck_forward,
        lambda m, id: m.retry(id),
        "COMPLETED",
        ["take", "pay", "pay", "ship"],
    ),
    "skip of a step": (
        stuck_forward,
        lambda m, id: m.skip(id),
        "COMPLETED",
        ["take", "pay", "ship"],
    ),
    "cancel of a stuck saga": (
        stuck_forward,
        lambda m, id: m.cancel(id),
        "COMPENSATED",
        ["take", "pay", "give_back"],
    ),
    "retry of a compensation": (
        stuck_back,
        lambda m, id: m.retry(id),
        "COMPENSATED",
        ["take", "pay", *["give_back"] * 8],
    ),
    "skip of a compensation": (
        stuck_back,
        lambda m, id: m.skip(id),
        "COMPENSATED",
        ["take", "pay", *["give_back"] * 5],
    ),
}


@pytest.mark.parametrize("what", ROWS)
def test_it_runs_on_to_its_end(shop: Shop, what: str) -> None:
    prepare, ask, status, ran = ROWS[what]
    result = prepare(shop)

    ask(shop.manager, result.id)

    assert (result.status, shop.ran) == (status, ran)


class TestInACanvas:
    """The rest of a canvas needs the result of a saga in the same call."""

    def after(self, shop: Shop) -> Any:
        @shop.app.task(name="shop.after", shared=False)
        def after(context: dict[str, Any]) -> None:
            shop.ran.append("after")

        return after

    def test_a_saga_that_waits_for_a_signal(self, shop: Shop) -> None:
        saga = shop.new().wait_for("approved").local_step(shop.pay).commit()

        with pytest.raises(SagaExecutionException) as caught:
            (saga.s() | self.after(shop).si({})).apply()

        text = str(caught.value)
        assert "it waits for the signal 'approved', which SagaManager.signal() sends" in text
        assert "start the saga by itself with delay(), or the canvas on workers" in text
        assert shop.ran == ["take"]
        (waiting,) = shop.manager.list(status="RUNNING")
        shop.manager.signal(waiting.saga_id, "approved")
        assert shop.ran == ["take", "pay"]

    def test_a_saga_that_sleeps(self, shop: Shop) -> None:
        saga = shop.new().sleep_step(3600).local_step(shop.pay).commit()
        (saga.s() | self.after(shop).s()).apply().get()
        assert shop.ran == ["take", "pay", "after"]

    def test_a_saga_whose_step_pauses_it(self, shop: Shop) -> None:
        @shop.app.task(name="shop.hold", shared=False, acks_late=True)
        def hold() -> None:
            shop.manager.pause(saga_info().saga_id or "")

        saga = shop.new().local_step(hold).local_step(shop.pay).commit()
        done = saga.s().apply()
        assert "it is paused; SagaManager.resume() continues it" in str(done.result)
        shop.manager.resume(done.id)
        assert shop.ran == ["take", "pay"]

    def test_a_step_whose_task_is_elsewhere(self, shop: Shop) -> None:
        saga = shop.new().local_step("elsewhere.pay", inputs=[], read_only=True).commit()
        done = saga.s().apply()
        assert "step 'pay' was sent to the broker" in str(done.result)


class TestInsideAStep:
    """A body that calls ``.apply()`` of another saga needs its result in that call."""

    def inner(self, shop: Shop) -> Any:
        """A saga with a delay of each kind, which nothing but the call itself would end."""
        shop.fails["pay"] = 2
        saga = Saga(f"inner-{next(numbers)}", app=shop.app).sleep_step(60)
        saga = saga.local_step(shop.pay, retriable=True, max_attempts=3, retry_backoff=60)
        return saga.local_step(shop.ship, read_only=True).commit()

    def outer(self, shop: Shop, body: Callable[[], Any]) -> Any:
        task = shop.app.task(body, name="shop.outer", shared=False, acks_late=True)
        return shop.new().local_step(task, name="outer")

    def test_the_body_gets_the_result(self, shop: Shop) -> None:
        inner = self.inner(shop)

        def body() -> Any:
            shop.ran.append("begun")
            result = inner.s(order_id=7).apply().get(disable_sync_subtasks=False)
            shop.ran.append("ended")
            return result

        result = shop.started(self.outer(shop, body).local_step(shop.ship, name="last"))

        assert (result.status, result.context["order_id"]) == ("COMPLETED", 7)
        assert shop.ran == ["take", "begun", "pay", "pay", "pay", "ship", "ended", "ship"]

    def test_an_error_of_the_inner_saga_is_the_bodys(self, shop: Shop) -> None:
        inner = self.inner(shop)
        shop.fails["pay"] = 3

        def body() -> Any:
            return inner.s().apply().get(disable_sync_subtasks=False)

        result = shop.started(self.outer(shop, body))
        assert result.status == "COMPENSATED"
        assert result.failure is not None
        assert result.failure.type == "celery_saga.errors.SagaCompensated"
        assert shop.ran == ["take", "pay", "pay", "pay", "give_back"]

    def test_in_a_body_that_a_worker_would_run(self, shop: Shop) -> None:
        inner = self.inner(shop)
        shop.app.conf.task_always_eager = False
        token = info.current.set(lambda: SagaInfo())
        try:
            done = inner.s().apply()
        finally:
            info.current.reset(token)
        assert (done.state, shop.ran) == ("SUCCESS", ["pay", "pay", "pay", "ship"])

    def test_delay_in_a_body_starts_it_behind_the_step(self, shop: Shop) -> None:
        inner = self.inner(shop)
        shop.app.conf.task_always_eager = True

        def body() -> None:
            inner.delay()
            shop.ran.append("ended")

        shop.started(self.outer(shop, body))
        assert shop.ran == ["take", "ended", "pay", "pay", "pay", "ship"]
