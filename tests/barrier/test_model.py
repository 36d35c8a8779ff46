"""Every short history of deliveries, and long random ones, against the model."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_saga.contrib.barrier import create_table
from tests.barrier.model import Delivery, Model, run
from tests.barrier.places import EFFECTS, Place, Sqlite

#: One round of a step, with a compensation of it and one in a new round; and another round.
ALPHABET = [
    Delivery("f"),
    Delivery("f", commits=False),
    Delivery("c"),
    Delivery("c", commits=False),
    Delivery("c", round=1),
    Delivery("f", of=1),
    Delivery("c", of=1, round=2),
]


class Memory(Sqlite):
    """One connection to a database in memory, for many short histories."""

    name = "memory"

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:")
        self.db.execute(create_table("sqlite"))
        self.db.execute(EFFECTS)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self.db:
            yield self.db


def check(place: Place, history: Any) -> None:
    saga, model = place.saga(), Model()
    for number, each in enumerate(history):
        result = f"result {number}"
        said, expected = run(place, saga, each, result), model.expect(each, result)
        assert said == expected, " | ".join(map(str, history[: number + 1]))
    assert place.amounts(saga) == sorted(model.amounts), " | ".join(map(str, history))


def test_every_history_of_five_deliveries():
    place = Memory()
    histories = list(itertools.product(ALPHABET, repeat=5))
    assert len(histories) == 7**5
    for history in histories:
        check(place, history)


deliveries = st.builds(
    Delivery,
    direction=st.sampled_from("fc"),
    of=st.integers(0, 2),
    round=st.integers(0, 3),
    commits=st.sampled_from([True, True, False]),
)


@pytest.mark.timeout(300)
def test_random_histories(place):
    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(st.lists(deliveries, min_size=4, max_size=16))
    def of_this_place(history: list[Delivery]) -> None:
        check(place, history)

    of_this_place()
