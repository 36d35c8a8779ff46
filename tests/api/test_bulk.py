"""A verb for all sagas that match: what it finds, does, refuses, and leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from celery_saga.errors import StoreUnavailable
from celery_saga.operators import BULK, BulkResult
from tests.api.shops import Shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.app.close()


def stuck(shop: Shop, count: int) -> list[str]:
    """Ids of stuck sagas, the newest first."""
    found = []
    for _ in range(count):
        found.append(shop.stuck().id)
        shop.time += 10
    return found[::-1]


def test_all_stuck_sagas_are_retried_and_others_are_left_alone(shop: Shop) -> None:
    done, broken = shop.started(), stuck(shop, 3)
    result = shop.manager.bulk("retry", {"fail": []}, by="ann")
    assert result == BulkResult("retry", tuple(broken), tuple(broken))
    assert {shop.manager.get(each).status.value for each in broken} == {"COMPENSATED"}
    assert done.status == "COMPLETED"
    notes = shop.manager.get(broken[0]).execution.history
    assert [each.by for each in notes if each.what == "retry"] == ["ann"]


def test_a_dry_run_changes_nothing(shop: Shop) -> None:
    broken = stuck(shop, 2)
    before = [shop.manager.get(each).execution.history for each in broken]
    assert shop.manager.bulk("skip", dry_run=True) == BulkResult("skip", tuple(broken))
    assert [shop.manager.get(each).execution.history for each in broken] == before


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ({}, 3),
        ({"limit": 2}, 2),
        ({"older_than": 15}, 2),
        ({"saga": "another"}, 0),
        ({"status": ["STUCK", "COMPLETED"]}, 3),
        ({"status": "PAUSED"}, 0),
    ],
    ids=str,
)
def test_filters(shop: Shop, where: dict[str, Any], count: int) -> None:
    broken = stuck(shop, 3)
    found = shop.manager.bulk("resolve", "COMPENSATED", where=where, dry_run=True).found
    assert found == tuple(broken[3 - count :] if "older_than" in where else broken[:count])


def test_what_refuses_is_named_with_the_reason_and_the_rest_is_done(shop: Shop) -> None:
    shop.time += 1
    first, second = stuck(shop, 2)
    find = shop.manager.list

    def meanwhile(*args: Any, **options: Any) -> Any:
        found = find(*args, **options)
        shop.manager.resolve(second, "COMPENSATED", by="bob")  # another operator is faster
        return found

    seen: list[tuple[int, int]] = []
    with mock.patch.object(shop.manager, "list", mock.create_autospec(find, side_effect=meanwhile)):
        result = shop.manager.bulk(
            "skip", progress=lambda so_far: seen.append((len(so_far.done), len(so_far.refused)))
        )
    assert result.found == (first, second)
    assert result.done == (first,)
    assert list(result.refused) == [second]
    assert "COMPENSATED" in result.refused[second]
    assert seen == [(1, 0), (1, 1)]


@pytest.mark.parametrize("verb", [verb for verb in BULK if verb not in ("resolve", "signal")])
def test_each_verb_finds_the_statuses_to_which_it_applies(shop: Shop, verb: str) -> None:
    shop.app.conf.task_always_eager = verb in ("retry", "skip")
    saga = shop.stuck() if verb in ("retry", "skip") else shop.started()
    if verb == "resume":
        shop.manager.pause(saga)
    result = shop.manager.bulk(verb)
    assert (result.done, result.refused) == ((saga.id,), {})


@pytest.mark.parametrize(
    ("verb", "where", "said"),
    [
        ("list", {}, "expected one of retry, skip"),
        ("_handle", {}, "expected one of retry, skip"),
        ("retry", {"sagas": "order"}, "expected some of limit, offset, older_than, saga, status"),
        ("retry", {"status": "BROKEN"}, "expected one of CREATED"),
        ("retry", {"limit": 0}, "expected 1 or more"),
    ],
)
def test_what_is_refused_as_a_whole(
    shop: Shop, verb: str, where: dict[str, Any], said: str
) -> None:
    stuck(shop, 1)
    with pytest.raises(ValueError, match=said):
        shop.manager.bulk(verb, where=where)
    assert shop.manager.counts()["STUCK"] == 1


def test_a_store_that_is_unavailable_ends_it_and_the_next_call_continues(shop: Shop) -> None:
    second = stuck(shop, 2)[1]
    skip = shop.manager.skip

    def failing(saga_id: Any, **options: Any) -> Any:
        if saga_id == second:
            raise StoreUnavailable("the server is down")
        return skip(saga_id, **options)

    with mock.patch.object(shop.manager, "skip", failing), pytest.raises(StoreUnavailable):
        shop.manager.bulk("skip")
    assert shop.manager.bulk("skip").done == (second,)
