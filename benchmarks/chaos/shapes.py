"""The shapes of sagas: where each step is in its plan, and what follows from that. Pure.

A step has one number, in the order of the plan; each item of a loop has its own. ``linear`` is a
list of steps. ``tree`` has 13: a parallel step, two loops, a choice and a last step.

======  ==========================================================================
0, 1    branches of the parallel step
2, 3    the nested saga, its third branch
4 to 6  items of a loop, one after the other
7 to 9  items of a loop, all at once; their compensations may run at once, too
10, 11  the alternatives of a choice
12      the last step
======  ==========================================================================
"""

from __future__ import annotations

Path = tuple[int, ...]

SHAPES = ("linear", "tree")

#: Paths of the steps of a tree, by their numbers.
TREE: tuple[Path, ...] = (
    *((0, 0), (0, 1), (0, 2, 0), (0, 2, 1)),
    *((1, 0), (1, 1), (1, 2)),
    *((2, 0), (2, 1), (2, 2)),
    *((3, 0), (3, 1)),
    (4,),
)
#: The first of the items of each loop, and how many items there are.
LOOPS, ITEMS = (4, 7), 3
#: The steps of the choice.
ALTERNATIVES = (10, 11)
#: Groups without an order: the parallel step, the loop with parallel items, the choice.
UNORDERED: frozenset[Path] = frozenset({(0,), (2,), (3,)})
#: Of these, the one whose compensations have no order either.
FREE: Path = (2,)


def step_name(number: int) -> str:
    """The name of a step under which the context has its work, and the first item of a loop."""
    return f"step-{number}"


def step_number(name: str) -> int:
    """The number of a step by its name in the plan: ``step-4[1]`` is 5, ``nested.step-3`` is 3."""
    number, _, item = name.rpartition("-")[2].partition("[")
    return int(number) + int(item[:-1] or 0)


def path_of(shape: str, number: int) -> Path:
    """Where a step is in its plan."""
    return TREE[number] if shape == "tree" else (number,)


def precedes(shape: str, one: int, other: int) -> bool:
    """Whether the plan has one step before the other: the other is not sent before it is over."""
    if shape == "linear":
        return one < other
    group = _group(one, other)
    return group not in UNORDERED and one < other


def reversed_freely(shape: str, one: int, other: int) -> bool:
    """Whether the compensations of two steps have no order."""
    return shape == "tree" and _group(one, other) == FREE


def _group(one: int, other: int) -> Path:
    """The innermost node of a tree that has both steps inside."""
    first, second = TREE[one], TREE[other]
    depth = 0
    while depth < min(len(first), len(second)) and first[depth] == second[depth]:
        depth += 1
    return first[:depth]
