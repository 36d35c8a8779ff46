"""The walk through the states of sagas with branches: a fixed share of what
:mod:`tests.core.walk_trees` walks through, and random ways through larger trees.
"""

from __future__ import annotations

import pytest

from celery_saga.core.execution import SagaStatus, StepStatus
from tests.core.tree_shapes import FLAGS, WAITS, sequences, size
from tests.core.walk import Violation
from tests.core.walk_trees import HAPPENS, SETS, Sum, Tree, trees_of, walked, wandered

#: Set and what happens -> each so many-th of its trees is walked through, here and with ci.
SHARES = {
    ("one", "nothing"): (3, 1),
    ("one", "failure"): (13, 3),
    ("one", "cancel"): (13, 3),
    ("one", "crash"): (29, 11),
    ("two", "nothing"): (3, 1),
    ("two", "failure"): (5, 1),
    ("two", "cancel"): (7, 2),
    ("two", "crash"): (17, 5),
    ("nested", "nothing"): (97, 29),
    ("nested", "cancel"): (331, 97),
    ("three", "nothing"): (31, 7),
    ("three", "failure"): (61, 17),
    ("three", "cancel"): (61, 17),
    ("groups", "nothing"): (29, 7),
    ("groups", "failure"): (67, 17),
    ("four", "nothing"): (331, 97),
    ("four", "failure"): (499, 151),
}


@pytest.mark.parametrize("row", SHARES, ids=" ".join)
def test_no_state_breaks_a_promise(row: tuple[str, str]) -> None:
    assert _kept(*row, SHARES[row][0]).worlds > 50


@pytest.mark.ci
@pytest.mark.parametrize("row", SHARES, ids=" ".join)
def test_no_state_of_more_trees_does(row: tuple[str, str]) -> None:
    assert _kept(*row, SHARES[row][1]).worlds > 100


def _kept(name: str, happens: str, share: int) -> Sum:
    try:
        return walked(name, happens, share, first=share // 2)
    except Violation as violation:
        text = str(violation)
    pytest.fail(text, pytrace=False)


def test_there_is_a_share_of_each() -> None:
    assert set(SHARES) == {(name, happens) for name, rows in SETS.items() for happens in rows}


def test_the_sets_have_what_they_say() -> None:
    """Trees are counted once; what is the same but for the order of its branches is one."""
    counts = {name: len(set(map(repr, trees_of(name)))) for name in SETS}
    assert counts == {name: len(list(trees_of(name))) for name in SETS}
    assert len(sequences(1)) == 1 + 6 + 6 * 6
    assert {size(tree.shape) for tree in trees_of("groups")} == {3, 4}
    assert counts["one"] > len(sequences(1)) * len((*FLAGS, *WAITS))
    assert any(tree.pivot is not None for tree in trees_of("three"))


def test_the_walk_meets_every_status() -> None:
    bounds = HAPPENS["failure"]._replace(verbs=1, pauses=1, voids=1, failures=3)
    found = [Tree(shape).walk(bounds).run() for shape in ("limited", ("par", ".", ".!-"))]
    assert set[SagaStatus]().union(*(each.statuses for each in found)) == set(SagaStatus)
    assert set[StepStatus]().union(*(each.step_statuses for each in found)) == set(StepStatus)


@pytest.mark.parametrize("tens", range(20))
def test_random_ways_through_random_trees(tens: int) -> None:
    assert sum(map(_wandered, range(10 * tens, 10 * tens + 10))) > 100


@pytest.mark.ci
@pytest.mark.parametrize("hundreds", range(2, 12))
def test_more_random_ways(hundreds: int) -> None:
    assert sum(map(_wandered, range(100 * hundreds, 100 * hundreds + 100))) > 1_000


def _wandered(seed: int) -> int:
    try:
        return wandered(seed)
    except Violation as violation:
        text = f"seed {seed}: {violation}"
    pytest.fail(text, pytrace=False)
