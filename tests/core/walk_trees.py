"""``python -m tests.core.walk_trees``: through every state of every tree of up to four steps.

=========  =========================================================================================
set        trees
=========  =========================================================================================
one        one step, or a wait in its place, of each kind, in up to two nodes of each kind
two        two steps in up to one node of each kind beside sequences; each place of a pivot
nested     two steps in up to two nodes of each kind, one in another
three      three steps in up to one node of each kind; each place of a pivot
four       four steps in up to one node of each kind
groups     three and four steps in groups and choices that are nested in any way
=========  =========================================================================================

Loops have two items, one where that would be more than four steps, and in the set ``one`` also
none. What happens to each saga, beside its
messages and reports coming twice and at any later time: nothing more, one task that fails, a
cancel, or a void claim whose process may continue. :mod:`tests.core.walk` has the details.

All of it takes hours; ``--share 20`` takes each twentieth tree of each set.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from celery_saga.core.plan import Plan
from tests.core import tree_shapes
from tests.core.tree_shapes import (
    AT_ONCE,
    EITHER,
    FLAGS,
    ITEMS,
    STEP,
    WAITS,
    Shape,
    drawn,
    loops,
    pivots_of,
    plan_of_shape,
    sequences,
    with_leaves,
)
from tests.core.walk import Violation, Walk
from tests.core.worlds import Bounds

NOTHING = Bounds(0, 0, 0, 0, failures=0, looks=0)

#: Steps of a tree, of all items and alternatives.
MOST_TASKS = 4

#: What happens in a saga, by name.
HAPPENS = {
    "nothing": NOTHING,
    "failure": NOTHING._replace(failures=1),
    "cancel": NOTHING._replace(cancels=1),
    "crash": NOTHING._replace(voids=1, zombies=1),
}


class Tree(NamedTuple):
    """One saga.

    Args:
        shape: see :mod:`tests.core.tree_shapes`.
        items: of its loops.
        pivot: place of it in the root's sequence.
    """

    shape: Shape
    items: int = 2
    pivot: int | None = None

    @classmethod
    def drawn(cls, generator: random.Random, steps: int) -> Tree:
        """A random tree with so many leaves."""
        shape = drawn(generator, steps)
        places = pivots_of(shape)
        pivot = generator.choice(places) if places and generator.random() < 0.5 else None
        return cls(shape, generator.choice((0, 1, 2, 2, 3)), pivot)

    def plan(self, **limits: Any) -> Plan:
        """Its plan."""
        return plan_of_shape(self.shape, self.pivot, **limits)

    @property
    def values(self) -> Mapping[str, Any]:
        """Its context at the start."""
        return {"input": 1, ITEMS: [f"item {place}" for place in range(self.items)]}

    def walk(self, bounds: Bounds, **how: Any) -> Walk:
        """A walk through its states."""
        return Walk(self.plan(), bounds, values=self.values, **how)


def _one() -> Iterator[Tree]:
    for shape in sequences(1):
        twice = (2,) if tree_shapes.size(shape, items=2) <= 2 else ()
        counts = (0, 1, *twice) if loops(shape) else (2,)
        for leaf, items in itertools.product((*FLAGS, *WAITS), counts):
            yield Tree(with_leaves(shape, iter([leaf if leaf in WAITS else STEP + leaf])), items)


def _with_pivots(shapes: tuple[Shape, ...]) -> Iterator[Tree]:
    for shape in shapes:
        yield _sized(shape)
        yield from (_sized(shape)._replace(pivot=place) for place in pivots_of(shape))


def _sized(shape: Shape) -> Tree:
    """The tree with two items in its loops, or one where that would be many steps."""
    return Tree(shape, 2 if tree_shapes.size(shape, items=2) <= MOST_TASKS else 1)


def _grouped(shape: Shape) -> bool:
    """Whether there are groups and choices in it alone, nested or not."""
    if isinstance(shape, str):
        return True
    return shape[0] in ("seq", EITHER, *AT_ONCE) and all(map(_grouped, shape[1:]))


def _groups() -> Iterator[Tree]:
    before, tree_shapes.AROUND_ONE = tree_shapes.AROUND_ONE, ()
    tree_shapes.shapes.cache_clear()
    tree_shapes.sequences.cache_clear()
    try:
        found = [shape for steps in (3, 4) for shape in sequences(steps, 3)]
    finally:
        tree_shapes.AROUND_ONE = before
        tree_shapes.shapes.cache_clear()
        tree_shapes.sequences.cache_clear()
    yield from map(Tree, found)


def trees_of(name: str) -> Iterator[Tree]:
    """The trees of a set."""
    if name == "one":
        return _one()
    if name == "groups":
        return _groups()
    if name == "nested":
        return map(_sized, sequences(2, 2))
    steps = ("one", "two", "three", "four").index(name) + 1
    if steps == 4:
        return map(_sized, sequences(4, 1))
    return _with_pivots(sequences(steps, 1))


#: The sets, and what happens in each of them.
SETS: dict[str, tuple[str, ...]] = {
    "one": tuple(HAPPENS),
    "two": tuple(HAPPENS),
    "nested": ("nothing", "cancel"),
    "three": ("nothing", "failure", "cancel"),
    "groups": ("nothing", "failure"),
    "four": ("nothing", "failure"),
}


def wandered(seed: int) -> int:
    """Go a random way through a random tree of two to seven leaves; how long it was.

    Raises:
        Violation: see :meth:`Walk.wander`.
    """
    generator = random.Random(seed)
    tree = Tree.drawn(generator, generator.randint(2, 7))
    much = Bounds(4, 2, 3, 1, pauses=2, verbs=2, unknown=2, losses=9, signals=2, failures=3)
    little = NOTHING._replace(voids=1, zombies=1, failures=1)
    bounds = much if generator.random() < 0.7 else little
    how = {"deadline": generator.random() < 0.2, "result": generator.random() < 0.5}
    return tree.walk(bounds, **how).wander(generator)


class Sum(NamedTuple):
    """What was walked through."""

    trees: int = 0
    worlds: int = 0
    transitions: int = 0

    def __add__(self, other: tuple[int, ...]) -> Sum:  # type: ignore[override]
        return Sum(*map(sum, zip(self, other, strict=True)))

    def __str__(self) -> str:
        return f"{self.trees:,} trees, {self.worlds:,} states, {self.transitions:,} transitions"


def walked(name: str, happens: str, share: int = 1, first: int = 0) -> Sum:
    """Walk through each ``share``-th tree of a set.

    Raises:
        Violation: with the tree.
    """
    total = Sum()
    for tree in itertools.islice(trees_of(name), first, None, share):
        try:
            found = tree.walk(HAPPENS[happens]).run()
        except Violation as violation:
            violation.where = f"{tree}, set {name}, {happens}: "
            raise
        total += (1, found.worlds, found.transitions)
    return total


def main() -> int:
    """Walk through the sets that the command line names; 1 if an invariant is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.core.walk_trees")
    parser.add_argument("--share", type=int, default=1, help="take each N-th tree (default: 1)")
    parser.add_argument("--first", type=int, default=0, help="skip so many (default: 0)")
    parser.add_argument("--seeds", type=int, default=1_000, help="of random ways (default: 1000)")
    parser.add_argument("--start", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("sets", nargs="*", help=f"of: {' '.join(SETS)} (default: all)")
    options = parser.parse_args()
    began, total = time.monotonic(), Sum()
    for name in options.sets or SETS:
        for happens in SETS[name]:
            found = walked(name, happens, options.share, options.first)
            total += found
            seconds = time.monotonic() - began
            print(f"{name:7} {happens:8} {found}; {seconds:,.0f} s so far", flush=True)
    moves = sum(map(wandered, range(options.start, options.start + options.seeds)))
    print(f"{options.seeds:,} random ways, {moves:,} moves")
    print(f"all: {total}; no invariant is broken; {time.monotonic() - began:,.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
