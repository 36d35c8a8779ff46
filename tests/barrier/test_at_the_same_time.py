"""Deliveries that meet: two transactions at the same time, on real databases."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from random import Random
from typing import Any

import psycopg
import pytest

from celery_saga import BlockedByCompensation
from tests.barrier.model import Delivery, Model, run
from tests.barrier.places import Place
from tests.helpers import delivery, wait_for

DO, COMPENSATE, COMPENSATE_AGAIN = Delivery("f"), Delivery("c"), Delivery("c", round=1)


class Meeting:
    """The first body holds its transaction open until the second one waits for it."""

    def __init__(self, place: Place, before: list[Delivery]) -> None:
        self.place, self.saga, self.model = place, place.saga(), Model()
        for each in before:
            assert run(place, self.saga, each, "before") == self.model.expect(each, "before")
        self.inside, self.may_end = threading.Event(), threading.Event()

    def first(self, each: Delivery) -> None:
        with (
            delivery(self.saga, each.direction, each.round, each.of),
            self.place.transaction() as session,
        ):
            with self.place.barrier(session) as first:
                if first:
                    self.place.effect(session, self.saga, 1 if each.direction == "f" else -1)
                    first.result = "first" if each.direction == "f" else None
            self.inside.set()
            assert self.may_end.wait(60)
            if not each.commits:
                raise LookupError

    def waiting(self, second: Future[Any]) -> bool:
        """Whether the second waits for a lock; what SQLite does is not to be seen from outside."""
        if not self.place.postgres:
            return True
        assert not second.done(), second.exception() or second.result()
        with self.place.transaction() as session:
            query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            found = self.place.run(session, f"{query} AND datname = current_database()")
            return bool(found.fetchone()[0])

    def run(self, one: Delivery, two: Delivery) -> tuple[Future[Any], Future[Any]]:
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(self.first, one)
            assert self.inside.wait(60)
            second = threads.submit(run, self.place, self.saga, two, "second")
            try:
                wait_for(lambda: self.waiting(second), 30, description="the second waits")
            finally:
                self.may_end.set()
        if one.commits:
            assert first.result() is None
        else:
            assert isinstance(first.exception(), LookupError)
        self.model.expect(one, "first")
        return first, second

    def amounts(self) -> list[int]:
        return self.place.amounts(self.saga)


@pytest.mark.parametrize("commits", [True, False], ids=["committed", "rolled back"])
@pytest.mark.parametrize(
    ("before", "one", "two"),
    [
        ([], DO, DO),
        ([], DO, COMPENSATE),
        ([], COMPENSATE, DO),
        ([], COMPENSATE, COMPENSATE),
        ([DO], COMPENSATE, COMPENSATE),
        ([DO], COMPENSATE, COMPENSATE_AGAIN),
        ([], COMPENSATE_AGAIN, DO),
    ],
    ids=lambda value: "+".join(map(str, value)) if isinstance(value, list) else str(value),
)
def test_the_second_sees_how_the_first_ended(place, before, one, two, commits):
    meeting = Meeting(place, before)
    one = Delivery(one.direction, one.of, one.round, commits)
    _, second = meeting.run(one, two)
    assert second.result() == meeting.model.expect(two, "second")
    assert meeting.amounts() == sorted(meeting.model.amounts)


@pytest.fixture(params=["REPEATABLE READ", "SERIALIZABLE"])
def strict(request, alchemy_postgres) -> Place:
    """PostgreSQL where a transaction sees what was there when it began."""

    class Strict(type(alchemy_postgres)):  # type: ignore[misc]
        def __init__(self) -> None:
            vars(self).update(vars(alchemy_postgres))
            self.engine = self.engine.execution_options(isolation_level=request.param)

    return Strict()


class TestStrictIsolation:
    """There the second cannot see the first one's row, and PostgreSQL has it try again."""

    @pytest.mark.parametrize(
        ("before", "one", "two"),
        [([], DO, DO), ([], DO, COMPENSATE), ([], COMPENSATE, DO), ([DO], COMPENSATE, COMPENSATE)],
    )
    def test_the_second_has_to_try_again(self, strict, before, one, two):
        meeting = Meeting(strict, before)
        _, second = meeting.run(one, two)
        error = second.exception()
        assert isinstance(error.__cause__, psycopg.errors.SerializationFailure), error
        assert meeting.amounts() == sorted(meeting.model.amounts)
        said = run(strict, meeting.saga, two, "again")
        assert said == meeting.model.expect(two, "again")
        assert meeting.amounts() == sorted(meeting.model.amounts)

    def test_after_a_rollback_it_continues(self, strict):
        meeting = Meeting(strict, [])
        _, second = meeting.run(Delivery("f", commits=False), COMPENSATE)
        assert second.result() == meeting.model.expect(COMPENSATE, None)
        assert meeting.amounts() == []


def test_many_at_once(place):
    """In any order: one effect at most, compensated at most once, and none after that."""
    source = Random(7)
    sagas = [place.saga() for _ in range(12)]
    kinds = [DO, DO, DO, COMPENSATE, COMPENSATE, COMPENSATE_AGAIN, Delivery("f", commits=False)]
    work = [(saga, each) for saga in sagas for each in kinds]
    source.shuffle(work)
    with ThreadPoolExecutor(6) as threads:
        said = list(threads.map(lambda one: (*one, *run(place, *one, "result")), work))
    for saga in sagas:
        of_it = [(each, seen, result) for name, each, seen, result in said if name == saga]
        dos = [seen for each, seen, _ in of_it if each == DO]
        compensations = [seen for each, seen, _ in of_it if each.direction == "c"]
        assert place.amounts(saga) in ([], [-1, 1])
        assert dos.count("first") == len(place.amounts(saga)) // 2 == compensations.count("first")
        assert {result for each, seen, result in of_it if each == DO and seen == "skipped"} <= {
            "result"
        }


def test_a_savepoint_that_is_rolled_back_has_not_been_here(alchemy_postgres, alchemy_sqlite):
    for place in (alchemy_postgres, alchemy_sqlite):
        saga = place.saga()
        with delivery(saga), place.transaction() as session:
            place.effect(session, saga, 9)
            with ExitStack() as stack:
                savepoint = session.begin_nested()
                stack.enter_context(place.barrier(session))
                place.effect(session, saga, 1)
                savepoint.rollback()
        assert place.amounts(saga) == [9]
        assert place.rows(saga) == []


def test_a_blocked_step_leaves_a_postgres_transaction_usable(psycopg):
    saga = psycopg.saga()
    run(psycopg, saga, COMPENSATE, None)
    with delivery(saga), psycopg.transaction() as session:
        with pytest.raises(BlockedByCompensation), psycopg.barrier(session):
            pass
        psycopg.effect(session, saga, 4)
    assert psycopg.amounts(saga) == [4]
