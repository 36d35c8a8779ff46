"""The three properties: sagas that have them, and one mistake at a time that each must be found."""

from __future__ import annotations

import re
from typing import Any

import pytest
from celery import Celery

from celery_saga import Const, LocalSagaStep, Saga, SagaManager, saga_info
from celery_saga.testing import EffectLog, assert_rolls_back_everywhere
from celery_saga.testing.kit.everywhere import WAYS

pytestmark = pytest.mark.filterwarnings("ignore::celery_saga.errors.DefinitionWarning")

CONTEXT = {"sku": "MUG", "count": 2, "total": 30}


class Shop:
    """Stock and money, and tasks that change them; ``mistake`` names what one of them does wrong.

    Each effect is kept under the key of its action, so that it is had once, and so that its
    compensation finds it, or finds that it never was.
    """

    def __init__(self, mistake: str = "") -> None:
        self.mistake = mistake
        self.stock = {"MUG": 10, "RUG": 10}
        self.reserved: dict[str, tuple[str, int]] = {}
        self.charged: dict[str, int] = {}
        self.cash = 0
        app = self.app = Celery("shop", broker="redis://nowhere.invalid", set_as_current=False)
        SagaManager(app)
        self.tasks: dict[str, Any] = {}

        def task(body: Any) -> Any:
            self.tasks[body.__name__] = app.task(shared=False, name=body.__name__)(body)

        @task
        def reserve(sku: str, count: int) -> Any:
            return self.reserve(sku, count)

        @task
        def release(sku: str) -> None:
            self.release(sku)

        @task
        def charge(total: int) -> Any:
            return self.charge(total)

        @task
        def refund(payment: str | None = None) -> None:
            self.refund(payment)

        @task
        def look() -> None:
            pass

    def state(self) -> dict[str, Any]:
        return {"stock": self.stock, "cash": self.cash}

    def reserve(self, sku: str, count: int) -> dict[str, Any]:
        key = saga_info().idempotency_key
        if key not in self.reserved or self.mistake == "an action that counts each time":
            self.reserved[key] = (sku, count)
            self.stock[sku] -= count
        if self.mistake == "an action with a trace of each run":
            self.stock["runs"] = self.stock.get("runs", 0) + 1
        return {"reservation": key}

    def release(self, sku: str) -> None:
        key = saga_info().forward_key
        if self.mistake == "a compensation that does nothing":
            return
        if self.mistake == "a compensation that needs what was done":
            sku, count = self.reserved.pop(key)
        elif self.mistake == "a compensation that fails":
            raise ValueError("not now")
        elif self.mistake == "a compensation of another object":
            _, count = self.reserved.pop(key, ("", 0))
            sku = "RUG"
        elif self.mistake == "a compensation that counts each time":
            count = self.reserved.get(key, ("", 0))[1]
        else:
            sku, count = self.reserved.pop(key, (sku, 0))
        self.stock[sku] += count

    def charge(self, total: int) -> dict[str, Any]:
        key = saga_info().idempotency_key
        if key not in self.charged:
            self.charged[key] = total
            self.cash += total
        return {"payment": key}

    def refund(self, payment: str | None = None) -> None:
        if self.mistake == "a compensation that relies on the answer of its action":
            key = payment or ""
        else:
            key = saga_info().forward_key
        self.cash -= self.charged.pop(key, 0)

    def saga(self, **options: Any) -> Saga:
        tasks, saga = self.tasks, Saga("checkout", app=self.app)
        reserve = saga.local_step(tasks["reserve"])
        if self.mistake != "no compensation":
            reserve.on_failure(tasks["release"])
        charge = saga.local_step(tasks["charge"])
        charge.on_failure(tasks["refund"], **options)
        saga.local_step(tasks["look"], read_only=True)
        return saga.commit()


def test_a_saga_that_has_them() -> None:
    shop = Shop()
    found = assert_rolls_back_everywhere(shop.saga(), CONTEXT, state=shop.state)
    assert found.steps == ("reserve", "charge", "look")
    assert found.findings == []
    # One without trouble, 3 steps in 4 ways, 2 compensations in 3 ways, 3 actions run twice, 2 of
    # them before a rollback.
    assert found.runs == 1 + 3 * 4 + 2 * 3 + 3 + 2


#: A mistake of a project's -> step, way and finding that must be among those that are reported.
MISTAKES: dict[str, tuple[str, str, str]] = {
    "an action that counts each time": ("reserve", "runs twice", "'stock': {'MUG': "),
    "an action with a trace of each run": ("reserve", "runs twice", "'runs': "),
    "a compensation that does nothing": ("charge", "fails cleanly", "the rollback left 'stock'"),
    "a compensation that needs what was done": (
        "reserve",
        "loses its worker before its body",
        "STUCK at 'reserve': its compensation failed: builtins.KeyError",
    ),
    "a compensation of another object": ("charge", "fails cleanly", "the rollback left 'stock'"),
    "a compensation that counts each time": (
        "reserve",
        "its compensation runs twice",
        "the second time changed 'stock'",
    ),
    "a compensation that relies on the answer of its action": (
        "charge",
        "loses its worker after its body",
        "the rollback left 'cash': ",
    ),
    "a compensation that fails": (
        "charge",
        "fails cleanly",
        "STUCK at 'reserve': its compensation failed: builtins.ValueError: not now",
    ),
    "no compensation": ("charge", "fails cleanly", "the rollback left 'stock'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    step, way, what = MISTAKES[mistake]
    shop = Shop(mistake)
    with pytest.raises(AssertionError) as caught:
        assert_rolls_back_everywhere(shop.saga(), CONTEXT, state=shop.state)
    lines = str(caught.value).splitlines()
    assert re.match(r"\d+ of \d+ runs did not end as they should:", lines[0])
    assert any(
        re.match(rf"  {step} +{way} +{re.escape(what)}", line) or (way in line and what in line)
        for line in lines
    ), caught.value


@pytest.mark.parametrize("mistake", MISTAKES)
def test_it_is_found_by_fewer_ways_too(mistake: str) -> None:
    way = MISTAKES[mistake][1]
    shop = Shop(mistake)
    with pytest.raises(AssertionError, match=way):
        assert_rolls_back_everywhere(shop.saga(), CONTEXT, state=shop.state, ways=[way])


class TestWithALog:
    """Doubles that report to a log, in place of a state that can be compared."""

    def shop(self, log: EffectLog, careful: bool = True) -> Saga:
        app = Celery("log", broker="redis://nowhere.invalid", set_as_current=False)
        SagaManager(app)
        had: set[str] = set()

        @app.task(shared=False, name="do")
        def do() -> None:
            key = saga_info().idempotency_key
            if key not in had or not careful:
                had.add(key)
                log.did("do")

        @app.task(shared=False, name="take_back")
        def take_back() -> None:
            key = saga_info().forward_key
            if key in had:
                had.discard(key)
                log.compensated("do")

        saga = Saga("log", app=app)
        for name in ("a", "b"):
            saga.local_step(do, name=name).on_failure(take_back)
        return saga.commit()

    def test_it_holds(self) -> None:
        log = EffectLog()
        found = assert_rolls_back_everywhere(self.shop(log), effects=log)
        assert found.steps == ("a", "b")
        assert log.left == ()
        log.check()

    def test_it_does_not(self) -> None:
        log = EffectLog()
        with pytest.raises(AssertionError, match="was had twice with one idempotency key"):
            assert_rolls_back_everywhere(self.shop(log, careful=False), effects=log)
        log.check()  # what was found is not found a second time


class TestSagasOfOtherShapes:
    @pytest.fixture
    def shop(self) -> Shop:
        return Shop()

    def test_branches_loops_choices_and_nested_sagas(self, shop: Shop) -> None:
        tasks = shop.tasks
        inner = Saga("inner", app=shop.app)
        inner.local_step(tasks["charge"], name="inner_charge").on_failure(tasks["refund"])
        inner.commit()
        step = LocalSagaStep(tasks["reserve"], tasks["release"], name="each")
        saga = Saga("tree", app=shop.app)
        saga.parallel_step(
            LocalSagaStep(tasks["reserve"], tasks["release"], name="one"),
            LocalSagaStep(tasks["charge"], tasks["refund"], name="two"),
        )
        saga.for_each("skus", step, as_="sku")
        saga.nested_step(inner)
        saga.wait_for("approved", timeout=60)
        saga.local_step(tasks["look"], read_only=True)
        found = assert_rolls_back_everywhere(
            saga.commit(),
            {**CONTEXT, "skus": ["MUG", "RUG"]},
            state=shop.state,
            signals={"approved": True},
        )
        assert found.steps == ("one", "two", "each[0]", "each[1]", "inner.inner_charge", "look")

    def test_steps_after_the_pivot_are_not_rolled_back(self, shop: Shop) -> None:
        tasks, saga = shop.tasks, Saga("pivot", app=shop.app)
        saga.local_step(tasks["reserve"]).on_failure(tasks["release"])
        saga.local_step(tasks["charge"], pivot=True)
        saga.local_step(tasks["look"])
        found = assert_rolls_back_everywhere(saga.commit(), CONTEXT, state=shop.state)
        assert found.steps == ("reserve", "charge", "look")

    def test_commit_tasks_run_when_nothing_is_rolled_back_any_more(self, shop: Shop) -> None:
        tasks, saga = shop.tasks, Saga("commits", app=shop.app)
        step = saga.local_step(tasks["reserve"]).on_failure(tasks["release"])
        step.on_commit(tasks["charge"])
        saga.local_step(tasks["look"], read_only=True)
        found = assert_rolls_back_everywhere(saga.commit(), CONTEXT, state=shop.state)
        assert found.steps == ("reserve", "look", "reserve.commit")

    def test_a_commit_task_that_counts_each_time_is_found(self, shop: Shop) -> None:
        @shop.app.task(shared=False)
        def count() -> None:
            shop.cash += 1

        saga = Saga("counts", app=shop.app)
        step = saga.local_step(shop.tasks["reserve"]).on_failure(shop.tasks["release"])
        step.on_commit(count)
        with pytest.raises(AssertionError, match=r"reserve\.commit"):
            assert_rolls_back_everywhere(saga.commit(), CONTEXT, state=shop.state)

    def test_a_step_that_runs_again(self, shop: Shop) -> None:
        tasks, saga = shop.tasks, Saga("again", app=shop.app)
        saga.local_step(tasks["reserve"], on_lost="rerun").on_failure(tasks["release"])
        saga.local_step(tasks["look"], read_only=True)
        assert_rolls_back_everywhere(saga.commit(), CONTEXT, state=shop.state)

    def test_a_last_step_without_a_compensation(self, shop: Shop) -> None:
        tasks, saga = shop.tasks, Saga("last", app=shop.app)
        saga.local_step(tasks["reserve"]).on_failure(tasks["release"])
        saga.local_step(tasks["charge"])
        saga.commit()
        text = "STUCK at 'charge': .*\n.*give it a compensation, .* or say accept_stuck="
        with pytest.raises(AssertionError, match=text):
            assert_rolls_back_everywhere(saga, CONTEXT, state=shop.state)
        assert_rolls_back_everywhere(saga, CONTEXT, state=shop.state, accept_stuck=["charge"])

    def test_at_an_accepted_end_the_others_are_compensated_all_the_same(self) -> None:
        shop = Shop("a compensation that fails")
        tasks, saga = shop.tasks, Saga("last", app=shop.app)
        saga.local_step(tasks["reserve"]).on_failure(tasks["release"])
        saga.local_step(tasks["charge"])
        saga.commit()
        with pytest.raises(AssertionError, match="step 'reserve' was not compensated"):
            assert_rolls_back_everywhere(saga, CONTEXT, state=shop.state, accept_stuck=["charge"])

    def test_a_compensation_that_is_tried_once(self, shop: Shop) -> None:
        saga = shop.saga(max_attempts=1)
        with pytest.raises(AssertionError, match="its compensation fails once before its body"):
            assert_rolls_back_everywhere(saga, CONTEXT, state=shop.state)

    def test_a_reset_before_each_run(self, shop: Shop) -> None:
        resets: list[int] = []
        found = assert_rolls_back_everywhere(
            shop.saga(), CONTEXT, state=shop.state, reset=lambda: resets.append(1)
        )
        assert len(resets) == found.runs


class TestBadCalls:
    def test_it_needs_something_to_look_at(self) -> None:
        with pytest.raises(ValueError, match=r"give it state=.*or effects="):
            assert_rolls_back_everywhere(Shop().saga(), CONTEXT)

    def test_unknown_ways_and_steps(self) -> None:
        shop = Shop()
        with pytest.raises(ValueError, match=r"ways: expected some of 'fails cleanly'.*found"):
            assert_rolls_back_everywhere(shop.saga(), CONTEXT, state=shop.state, ways=["explodes"])
        with pytest.raises(ValueError, match="accept_stuck: no such steps were run"):
            assert_rolls_back_everywhere(
                shop.saga(), CONTEXT, state=shop.state, accept_stuck=["shp"]
            )

    def test_a_saga_that_does_not_complete_without_any_trouble(self) -> None:
        shop = Shop()
        saga = Saga("broken", app=shop.app)
        saga.local_step(shop.tasks["charge"], inputs={"total": Const("text")}, read_only=True)
        with pytest.raises(
            AssertionError, match="without any trouble, the saga should be COMPLETED"
        ):
            assert_rolls_back_everywhere(saga.commit(), CONTEXT, state=shop.state)


def test_the_ways_are_listed() -> None:
    assert len(WAYS) == len(set(WAYS)) == 8
