"""Waits for signals and times as a saga defines them, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from celery_saga import Saga, SagaCompensated
from celery_saga.core.events import Overdue
from celery_saga.core.plan import Plan, Sleep, Wait
from celery_saga.errors import DefinitionError, SignalTimeout
from celery_saga.runtime import runtime_of
from tests.api.shops import Shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.app.close()


def plan_of(shop: Shop, saga: Saga) -> Plan:
    return runtime_of(shop.app).plans.of(saga)


def test_the_error_of_a_timeout(shop: Shop) -> None:
    saga = Saga("waiting", app=shop.app)
    saga.local_step(shop.app.tasks["shop.take"], name="take").wait_for("approved", 60)
    result = saga.commit().delay()
    shop.time += 61

    runtime_of(shop.app).orchestrator.apply(result.id, Overdue(shop.time))

    with pytest.raises(SagaCompensated, match="'approved' was not sent within 60 s") as caught:
        result.get()
    error = caught.value.exception
    assert isinstance(error, SignalTimeout)
    assert (error.signal, error.timeout) == ("approved", 60)


def test_a_step_behind_it_sees_the_payload(shop: Shop) -> None:
    seen = []

    @shop.app.task(name="shop.see", shared=False)
    def see(answer: Any) -> None:
        seen.append(answer)

    saga = Saga("waiting", app=shop.app)
    saga.wait_for("approved", returns="answer").local_step(see)
    result = saga.commit().delay()
    result.signal("approved", {"limit": 5})

    assert (result.status, seen) == ("COMPLETED", [{"limit": 5}])


class TestDefinition:
    def test_what_is_said_becomes_the_plan(self, shop: Shop) -> None:
        take = shop.app.tasks["shop.take"]
        late = Saga("late", app=shop.app, steps=[take]).commit()
        saga = Saga("plan", app=shop.app)
        saga.wait_for("approved").wait_for("paid", 60, late, returns="payment", name="payment")
        saga.wait_for("shipped", timedelta(hours=1), take, returns=False).sleep_step(2, name="nap")
        first, second, third, nap = plan_of(shop, saga.commit()).steps

        assert first == Wait("approved", "approved", key="approved")
        assert isinstance(second, Wait)
        assert (second.name, second.timeout, second.key) == ("payment", 60.0, "payment")
        assert second.on_timeout is not None
        assert second.on_timeout.name == "late"
        assert isinstance(third, Wait)
        assert (third.timeout, third.key) == (3600.0, None)
        assert nap == Sleep("nap", 2.0)

    @pytest.mark.parametrize(
        "seconds", [0, -1, "5", True, None, float("nan"), float("inf")], ids=str
    )
    def test_seconds_that_are_none(self, shop: Shop, seconds: Any) -> None:
        with pytest.raises(DefinitionError, match="expected a number of seconds above 0"):
            Saga(app=shop.app).sleep_step(seconds)
        if seconds is not None:
            with pytest.raises(DefinitionError, match="expected a number of seconds above 0"):
                Saga(app=shop.app).wait_for("approved", seconds)

    @pytest.mark.parametrize(
        ("args", "options", "text"),
        [
            (("",), {}, "the name of a signal"),
            ((7,), {}, "the name of a signal"),
            (("approved[7]",), {}, "without '\\['"),
            (("approved", None, "shop.take"), {}, "without timeout="),
            (("approved",), {"returns": True}, "expected a context key or False"),
            (("approved",), {"returns": ""}, "expected a context key or False"),
        ],
        ids=["empty", "number", "brackets", "no timeout", "returns true", "returns empty"],
    )
    def test_arguments_that_are_refused(
        self, shop: Shop, args: Any, options: Any, text: str
    ) -> None:
        with pytest.raises(DefinitionError, match=text):
            Saga(app=shop.app).wait_for(*args, **options)

    def test_two_waits_for_one_signal(self, shop: Shop) -> None:
        saga = Saga("two", app=shop.app)
        saga.wait_for("approved").wait_for("approved", name="again")
        with pytest.raises(
            DefinitionError, match="two of its steps wait for the signal 'approved'"
        ):
            saga.commit()

    def test_two_branches_that_wait_for_one_signal(self, shop: Shop) -> None:
        branches = [
            Saga(name, app=shop.app).wait_for("approved", returns=False).commit() for name in "ab"
        ]
        saga = Saga("two", app=shop.app)
        saga.parallel_step(*branches)
        assert plan_of(shop, saga.commit()).signals == {"a.approved": 0, "b.approved": 0}

    def test_two_branches_whose_payloads_have_one_key(self, shop: Shop) -> None:
        branches = [
            Saga(name, app=shop.app).wait_for(name, returns="answer").commit() for name in "ab"
        ]
        saga = Saga("two", app=shop.app)
        saga.parallel_step(*branches)
        with pytest.raises(DefinitionError, match="both store a result under 'answer'"):
            saga.commit()

    def test_alternatives_may_wait_for_one_signal(self, shop: Shop) -> None:
        first, second = (Saga(name, app=shop.app).wait_for("approved").commit() for name in "ab")
        saga = Saga("two", app=shop.app)
        saga.conditional_step().if_then(lambda context: True, first).else_then(second)
        saga.commit()
        assert saga.committed

    def test_what_follows_a_timeout_may_wait_for_the_signal_again(self, shop: Shop) -> None:
        again = Saga("again", app=shop.app).wait_for("approved", name="second").commit()
        saga = Saga("two", app=shop.app)
        saga.wait_for("approved", 5, again)
        saga.commit()
        assert saga.committed

    def test_a_loop_of_waits(self, shop: Shop) -> None:
        body = Saga("body", app=shop.app).wait_for("approved").commit()
        saga = Saga("loop", app=shop.app)
        saga.for_each("items", body, parallel=True, returns="approved")
        result = saga.commit().delay(items=["x", "y"])

        shop.manager.signal(result.id, "approved[1]", "second")
        shop.manager.signal(result.id, "approved[0]", "first")

        assert result.status == "COMPLETED"
        assert result.context["approved"] == ["first", "second"]

    def test_the_plan_in_text(self, shop: Shop) -> None:
        saga = Saga("shown", app=shop.app)
        saga.wait_for("approved", 60, shop.app.tasks["shop.take"]).sleep_step(2)
        saga.wait_for("paid")
        lines = str(plan_of(shop, saga.commit())).splitlines()
        assert lines[1:] == [
            "  0    approved: for the signal 'approved', 60 s at most",
            "  0.0  take: shop.take",
            "  1    sleep: for 2 s",
            "  2    paid: for the signal 'paid'",
        ]

    def test_repr(self, shop: Shop) -> None:
        saga = Saga("shown", app=shop.app)
        saga.wait_for("approved", 5, shop.app.tasks["shop.take"]).sleep_step(2)
        assert "wait_for('approved' | take) -> sleep(2 s)" in repr(saga)
