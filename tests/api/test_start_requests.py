"""``StartRequest``: all mistakes of a start are found when it is made."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from celery_saga import MissingInput
from celery_saga.core.context.data import encoded
from celery_saga.runtime import runtime_of
from celery_saga.saga import start_request
from celery_saga.start import StartRequest, start
from tests.api.shops import Shop

PAST = datetime(2001, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def shop():
    return Shop()


def request_of(shop: Shop, context: Any = None, **options: Any) -> StartRequest:
    return start_request(shop.orders, shop.app, context, **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        pytest.param({"on_duplicate": "ignore"}, "on_duplicate", id="on_duplicate"),
        pytest.param({"saga_id": "no id"}, "saga_id", id="saga_id"),
        pytest.param({"countdown": -1}, "countdown", id="countdown"),
        pytest.param({"countdown": 1, "eta": PAST}, "countdown and eta", id="both"),
        pytest.param({"eta": "soon"}, "eta", id="eta"),
        pytest.param({"deadline": 0}, "deadline", id="deadline"),
        pytest.param({"deadline": PAST}, "deadline", id="over"),
        pytest.param({"countdown": 9, "deadline": 5}, "deadline", id="before the start"),
        pytest.param({"queue": ""}, "queue", id="queue"),
        pytest.param({"priority": 256}, "priority", id="priority"),
        pytest.param({"headers": [1]}, "headers", id="headers"),
        pytest.param({"link": 1}, "link", id="link"),
        pytest.param({"link_error": 1}, "link_error", id="link_error"),
    ],
)
def test_a_wrong_argument_is_named(shop, options, named):
    with pytest.raises(ValueError, match=f"^{named}: "):
        request_of(shop, **options)

    assert shop.ran == []


def test_an_argument_that_there_is_not(shop):
    with pytest.raises(TypeError, match="eager"):
        request_of(shop, eager=True)


def test_a_copy_is_checked_too(shop):
    request = request_of(shop)
    with pytest.raises(ValueError, match=r"^deadline: "):
        replace(request, deadline=-1)
    with pytest.raises(FrozenInstanceError):
        request.deadline = 5  # type: ignore[misc]


def test_times_count_from_the_start(shop):
    """A request that waits for a transaction keeps its countdown; an eta comes closer."""
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    request = request_of(shop, eta=soon, deadline=timedelta(hours=2))

    first, second = request.times(), request.times()

    assert second["countdown"] < first["countdown"] <= 3600
    assert first["deadline"] == second["deadline"] == 7200


def test_the_first_step_needs_a_key(shop):
    @shop.app.task(name="shop.needs", shared=False)
    def needs(order_id: int) -> None: ...

    plan = runtime_of(shop.app).plans.of(
        type(shop.orders)("needs", app=shop.app, steps=[needs]).commit()
    )
    with pytest.raises(MissingInput, match="order_id"):
        replace(request_of(shop), plan=plan)


def test_it_can_be_carried_out_twice(shop):
    request = request_of(shop, {"fail": []}, saga_id="once")

    assert [start(request), start(request)] == [("once", True), ("once", False)]
    assert shop.ran == ["take", "pay"]


def test_without_an_id_each_is_another_saga(shop):
    request = request_of(shop)
    (one, first), (other, second) = start(request), start(request)
    assert (first, second, one != other) == (True, True, True)


def test_a_second_start_is_recognized_by_what_it_was_opened_with(shop):
    request = request_of(shop, {"a": 1}, saga_id="linked")
    same = encoded({"a": 1})
    start(replace(request, opened_with=same))
    again = replace(request, context=encoded({"a": 1, "before": 2}), opened_with=same)
    assert start(again) == ("linked", False)
