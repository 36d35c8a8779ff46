"""The register of the invariants in ``docs/guarantees.md`` is complete."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from tests.core import promises, tree_promises, walk, walk_trees
from tests.core.scenario import plan_of
from tests.core.worlds import Bounds
from tests.invariants import Invariant
from tests.simulator import ledger, world
from tests.simulator.schedule import draw
from tests.simulator.simulator import outcome_of, quiet
from tests.test_docs import ROOT, defined_in

#: What each checker is made of.
CHECKERS: dict[str, tuple[ModuleType, ...]] = {
    "walk": (promises, tree_promises, walk),
    "simulator": (ledger, world),
}


class Row(NamedTuple):
    """An invariant, as the register has it."""

    number: str
    text: str
    checkers: tuple[str, ...]
    tests: tuple[tuple[str, str], ...]


def register() -> Iterator[Row]:
    _, _, text = (ROOT / "docs" / "guarantees.md").read_text().partition("## The invariants")
    for line in text.partition("\n## ")[0].splitlines():
        if re.match(r"\| I\d+ \|", line):
            number, text, checkers, shown = line.strip("| ").split(" | ")
            tests = tuple(re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", shown))
            yield Row(number, text, tuple(checkers.split(", ")), tests)


ROWS = list(register())


def named_in(module: ModuleType) -> set[str]:
    """Numbers of the invariants that a module names."""
    assert module.__file__
    return {
        Invariant[node.attr].value
        for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Invariant"
    }


def test_every_invariant_has_a_row() -> None:
    assert [row.number for row in ROWS] == [each.value for each in Invariant]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)
def test_a_row_names_tests_that_exist(row: Row) -> None:
    assert row.text.endswith(".")
    assert row.tests
    assert [name for file, name in row.tests if name not in defined_in(file)] == []


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_checker_checks_what_the_register_says(checker: str) -> None:
    listed = {row.number for row in ROWS if checker in row.checkers}
    assert listed == set[str]().union(*map(named_in, CHECKERS[checker]))


def test_the_walk_looks_at_each_of_its_invariants() -> None:
    bounds = Bounds(voids=1, zombies=0, retries=0, cancels=1, verbs=1)
    looked_at = set[Invariant]()
    for shape in ("a b", "a!", "a*"):
        found = walk.Walk(plan_of(shape, max_redeliveries=1), bounds, result=True).run()
        looked_at |= found.checked
    for shape in ("limited", ("par", ("each", "."), ("if", ".")), ("seq", ".", ".")):
        found = walk_trees.Tree(shape, items=1).walk(walk_trees.HAPPENS["failure"]).run()
        looked_at |= found.checked
    assert {row.number for row in ROWS if "walk" in row.checkers} == {i.value for i in looked_at}


def test_the_simulator_looks_at_each_of_its_invariants() -> None:
    looked_at = set[str]()
    with quiet():
        for seed in range(100):
            counts = outcome_of(draw(seed)).world.counts
            looked_at |= {name[8:] for name in counts if name.startswith("checked ")}
    assert {row.number for row in ROWS if "simulator" in row.checkers} == looked_at
