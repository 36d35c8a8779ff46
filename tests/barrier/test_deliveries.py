"""What the barrier does for one delivery after another, over each kind of connection."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from celery_saga import BarrierPassedTwice, BlockedByCompensation, UnserializableValue
from celery_saga.contrib.barrier import BarrierResult
from tests.barrier.places import Place
from tests.helpers import delivery


class Rollback(Exception):
    pass


def do(place: Place, saga_id: str, result: Any = None, round: int = 0) -> BarrierResult:
    with delivery(saga_id, "f", round), place.transaction() as session:
        with place.barrier(session) as first:
            if first:
                place.effect(session, saga_id, 1)
                first.result = result
        return first


def compensate(place: Place, saga_id: str, round: int = 0, of: int = 0) -> BarrierResult:
    with delivery(saga_id, "c", round, of), place.transaction() as session:
        with place.barrier(session) as first:
            if first:
                place.effect(session, saga_id, -1)
        return first


def fail(place: Place, saga_id: str, direction: str = "f", within: bool = False) -> None:
    """A body that writes and then fails, within the barrier's block or behind it."""
    with delivery(saga_id, direction), place.transaction() as session:
        with place.barrier(session) as first:
            assert first
            place.effect(session, saga_id, 5)
            if within:
                raise Rollback
        raise Rollback


def work(place: Place, saga_id: str, session: Any, amounts: Iterable[int]) -> None:
    """A body that enters the barrier for each of its parts."""
    for amount in amounts:
        with place.barrier(session) as first:
            assert first
            place.effect(session, saga_id, amount)


def test_a_step_and_its_compensation_happen_once_each(place):
    saga = place.saga()
    assert do(place, saga)
    assert not do(place, saga)
    assert place.amounts(saga) == [1]
    assert compensate(place, saga)
    assert not compensate(place, saga)
    assert place.amounts(saga) == [-1, 1]
    assert place.rows(saga) == ["pay/c/0", "pay/f/0"]


def test_a_step_that_comes_again_gets_the_first_ones_result(place):
    saga = place.saga()
    kept = {"id": "p-7", "sum": Decimal("9.90"), "at": datetime.now(timezone.utc), "n": [1, None]}
    assert do(place, saga, kept).result == kept
    again = do(place, saga, {"id": "p-8"})
    assert not again
    assert again.result == kept


def test_without_a_result_there_is_none(place):
    saga = place.saga()
    do(place, saga)
    assert do(place, saga, "later").result is None


def test_a_compensation_before_its_step_does_nothing_and_blocks_it(place):
    saga = place.saga()
    assert not compensate(place, saga)
    with pytest.raises(BlockedByCompensation, match=f"{saga}/pay/f/0 "):
        do(place, saga)
    assert place.amounts(saga) == []
    assert not compensate(place, saga)
    assert place.rows(saga) == ["pay/c/0", "pay/f/0"]


def test_a_step_after_its_compensation_is_blocked_and_reports_no_effect(place):
    saga = place.saga()
    do(place, saga, "done")
    compensate(place, saga)
    with pytest.raises(BlockedByCompensation):
        do(place, saga)
    assert place.amounts(saga) == [-1, 1]


def test_what_is_compensated_again_in_a_new_round_is_compensated_once(place):
    """The engine asks for it when the step's report comes after its compensation."""
    saga = place.saga()
    do(place, saga)
    assert compensate(place, saga, round=0)
    assert not compensate(place, saga, round=1)
    assert place.amounts(saga) == [-1, 1]


def test_rounds_of_a_step_have_nothing_to_do_with_each_other(place):
    saga = place.saga()
    assert not compensate(place, saga)
    assert do(place, saga, "second", round=1)
    assert do(place, saga, round=1).result == "second"
    with pytest.raises(BlockedByCompensation):
        do(place, saga, round=0)
    assert compensate(place, saga, round=3, of=1)
    assert place.rows(saga) == ["pay/c/0", "pay/c/1", "pay/f/0", "pay/f/1"]
    assert place.amounts(saga) == [-1, 1]


def test_ids_that_differ_in_case_are_different_sagas(place):
    saga = place.saga()
    assert do(place, saga)
    assert do(place, saga.upper())


def test_a_compensation_reads_what_its_step_kept(place):
    saga = place.saga()
    do(place, saga, ["p-7"])
    with delivery(saga, "c"), place.transaction() as session, place.barrier(session) as first:
        assert first.forward_result == ["p-7"]


def test_a_step_has_no_forward_result(place):
    saga = place.saga()
    assert do(place, saga, "x").forward_result is None


@pytest.mark.parametrize("direction", ["f", "c"])
def test_a_transaction_that_is_rolled_back_has_not_been_here(place, direction):
    saga = place.saga()
    if direction == "c":
        do(place, saga, "kept")
    with pytest.raises(Rollback):
        fail(place, saga, direction)
    assert bool(do(place, saga) if direction == "f" else compensate(place, saga))
    assert 5 not in place.amounts(saga)


def test_an_error_in_the_block_passes_through(place):
    saga = place.saga()
    with pytest.raises(Rollback):
        fail(place, saga, within=True)
    assert place.amounts(saga) == place.rows(saga) == []


def test_a_duplicate_leaves_the_transaction_usable(place):
    saga = place.saga()
    do(place, saga)
    with delivery(saga), place.transaction() as session, place.barrier(session) as first:
        assert not first
        place.effect(session, saga, 7)
    assert place.amounts(saga) == [1, 7]


def test_a_result_is_kept_as_it_would_come_back(place):
    saga = place.saga()
    do(place, saga, {"pair": (1, 2)})
    assert do(place, saga, {}).result == {"pair": [1, 2]}


def test_a_result_that_cannot_be_kept_rolls_the_transaction_back(place):
    saga = place.saga()
    with pytest.raises(UnserializableValue, match=r"result\['a'\]: a set cannot be stored"):
        do(place, saga, {"a": {1}})
    assert place.amounts(saga) == place.rows(saga) == []


class TestOnce:
    def pay(self, place: Place, saga_id: str, count: int = 2) -> Any:
        @place.once
        def work(*session: Any, amount: int) -> dict[str, Any]:
            place.effect(current, saga_id, amount)
            return {"amount": amount}

        with place.transaction() as current:
            return work(*(() if place.name.startswith("django") else (current,)), amount=count)

    def test_it_keeps_what_the_function_returns(self, place):
        saga = place.saga()
        with delivery(saga):
            assert self.pay(place, saga) == {"amount": 2}
        with delivery(saga):
            assert self.pay(place, saga, count=3) == {"amount": 2}
        assert place.amounts(saga) == [2]

    def test_a_compensation_of_nothing_returns_none(self, place):
        saga = place.saga()
        with delivery(saga, "c"):
            assert self.pay(place, saga) is None
        assert place.amounts(saga) == []


class TestTwice:
    """Work that would be left out without a word is refused."""

    def test_in_one_transaction(self, place):
        saga = place.saga()
        with (
            pytest.raises(BarrierPassedTwice, match="make two steps of it"),
            delivery(saga),
            place.transaction() as session,
        ):
            work(place, saga, session, (1, 2))
        assert place.amounts(saga) == place.rows(saga) == []

    def test_one_within_the_other(self, place):
        saga = place.saga()
        with (
            pytest.raises(BarrierPassedTwice),
            delivery(saga),
            place.transaction() as session,
            place.barrier(session),
            place.barrier(session),
        ):
            pass

    def test_in_two_transactions(self, place):
        saga = place.saga()
        with delivery(saga):
            with place.transaction() as session:
                work(place, saga, session, [1])
            with pytest.raises(BarrierPassedTwice), place.transaction() as session:
                work(place, saga, session, [2])
        assert place.amounts(saga) == [1]

    def test_one_that_was_rolled_back_may_be_tried_again(self, place):
        saga = place.saga()
        with delivery(saga):
            with pytest.raises(Rollback), place.transaction() as session, place.barrier(session):
                raise Rollback
            with place.transaction() as session, place.barrier(session) as first:
                assert first
                place.effect(session, saga, 1)
        assert place.amounts(saga) == [1]


class TestOutsideOfASaga:
    def test_the_work_is_done_as_without_a_barrier(self, place):
        saga = place.saga()
        for _ in range(2):
            with place.transaction() as session, place.barrier(session) as first:
                assert first
                assert first.forward_result is None
                place.effect(session, saga, 1)
                first.result = "not kept"
            assert first.result == "not kept"
        assert place.amounts(saga) == [1, 1]
        assert place.rows(saga) == []

    def test_results_are_as_they_are(self, place):
        with place.transaction() as session, place.barrier(session) as first:
            first.result = {1, 2}
        assert first.result == {1, 2}


class TestPurge:
    def test_it_removes_rows_of_that_age(self, place, monkeypatch):
        old, new = place.saga(), place.saga()
        with monkeypatch.context() as patch:
            patch.setattr("time.time", lambda: 1_700_000_000.0)
            compensate(place, old)
        do(place, new)
        with place.transaction() as session:
            assert place.purge(session, 30) == 2
        assert place.rows(old) == []
        assert place.rows(new) == ["pay/f/0"]


def test_a_commit_task_happens_once_beside_its_step(place):
    saga = place.saga()
    assert do(place, saga)
    for first in (True, False):
        commits = delivery(saga, "f", step="pay.commit", commits="pay")
        with commits, place.transaction() as session, place.barrier(session) as entered:
            assert bool(entered) is first
