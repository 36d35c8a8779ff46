"""Every tree of so many steps, for walks through all of their states.

A shape is a tree without names: ``"."`` is a step, and a tuple is a node with others inside, its
kind first. :func:`plan_of_shape` makes a plan of it, with steps called ``a``, ``b`` and so on in
the order of the plan, and compensations that read every key there is.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from celery_saga.core.plan import Call, Input, NestedSaga, Node, Plan, PlanStep, Sleep, Wait
from tests.core.scenario import steps_of
from tests.core.tree_promises import SHARED
from tests.core.trees import choice, each, par, saga, seq

#: A step, or a kind of node and what is inside of it.
Shape = Any

STEP = "."

#: Kinds of nodes with one node inside.
AROUND_ONE = ("if", "each", "together", "saga", "else", "timeout")
LOOPS = ("each", "together")
#: Kinds of nodes with several, of which the order does not matter, and with two.
AT_ONCE = ("par", "par together")
EITHER = "either"

#: Kinds of leaves beside steps, and what may be instead of a step: flags of a step.
WAITS = ("wait", "limited", "sleep")
FLAGS = ("", "-", "!", "!-", "?", "%2")

ITEMS = "items"


@cache
def shapes(steps: int, depth: int = 2) -> tuple[Shape, ...]:
    """All nodes with so many steps inside, and no more than ``depth`` nodes around each."""
    found: list[Shape] = [STEP] if steps == 1 else []
    if depth > 0:
        inside = [*sequences(steps, depth - 1)]
        found += [(kind, each) for kind in AROUND_ONE for each in inside]
        for parts in partitions(steps):
            for nodes in _combined(parts, depth - 1):
                found += [(kind, *nodes) for kind in AT_ONCE]
        for first in range(1, steps):
            pairs = itertools.product(
                sequences(first, depth - 1), sequences(steps - first, depth - 1)
            )
            found += [(EITHER, *pair) for pair in pairs]
    return tuple(found)


@cache
def sequences(steps: int, depth: int = 2) -> tuple[Shape, ...]:
    """The same, and sequences of nodes."""
    found = list(shapes(steps, depth))
    for first in range(1, steps):
        for head in shapes(first, depth):
            for tail in sequences(steps - first, depth):
                rest = tail[1:] if tail[0] == "seq" else (tail,)
                found.append(("seq", head, *rest))
    return tuple(found)


def partitions(total: int, most: int | None = None) -> Iterator[tuple[int, ...]]:
    """Ways to split so many steps into two or more branches, the larger ones first."""
    for first in range(min(total - (most is None), most or total), 0, -1):
        if first == total:
            yield (first,)
        else:
            yield from ((first, *rest) for rest in partitions(total - first, first))


def _combined(parts: Sequence[int], depth: int) -> Iterator[tuple[Shape, ...]]:
    """Branches of these sizes; of those that differ in their order alone one."""
    known = set()
    for nodes in itertools.product(*(sequences(part, depth) for part in parts)):
        key = tuple(sorted(map(repr, nodes)))
        if key not in known:
            known.add(key)
            yield nodes


def with_leaves(shape: Shape, leaves: Iterator[str]) -> Shape:
    """The shape with other leaves, in the order of the plan."""
    if isinstance(shape, str):
        return next(leaves)
    return (shape[0], *(with_leaves(each, leaves) for each in shape[1:]))


def size(shape: Shape, items: int = 1) -> int:
    """How many leaves it has; with so many items in each loop."""
    if isinstance(shape, str):
        return 1
    times = items if shape[0] in LOOPS else 1
    return times * sum(size(each, items) for each in shape[1:])


def loops(shape: Shape) -> bool:
    """Whether there is a loop in it."""
    kind = shape if isinstance(shape, str) else shape[0]
    return kind in LOOPS or (not isinstance(shape, str) and any(map(loops, shape[1:])))


def drawn(generator: random.Random, steps: int, depth: int = 4) -> Shape:
    """A tree with so many leaves of all kinds."""
    if depth == 0 or (steps == 1 and generator.random() < 0.7):
        leaf = generator.choice((*FLAGS, *FLAGS, *WAITS))
        return STEP + leaf if leaf in FLAGS else leaf
    if steps == 1 or generator.random() < 0.25:
        return (generator.choice(AROUND_ONE), drawn(generator, steps, depth - 1))
    first = generator.randrange(1, steps)
    kind = generator.choice(("seq", "seq", EITHER, *AT_ONCE, *AT_ONCE))
    parts = [first, steps - first]
    if kind != EITHER and parts[1] > 1 and generator.random() < 0.4:
        parts[1:] = [1, parts[1] - 1]
    return (kind, *(drawn(generator, part, depth - 1) for part in parts))


def pivots_of(shape: Shape) -> list[int]:
    """Places in the root's sequence at which the pivot may be."""
    nodes = shape[1:] if shape[0] == "seq" else (shape,)
    return [place for place, each in enumerate(nodes) if each[0] == STEP]


def plan_of_shape(shape: Shape, pivot: int | None = None, **limits: Any) -> Plan:
    """The plan of a shape.

    Args:
        shape: a leaf is a step's flags, or one of :data:`WAITS`.
        pivot: place of the node of the root's sequence that is the pivot; it has to be a step.
    """
    names = iter("abcdefghij")
    nodes = shape[1:] if shape[0] == "seq" else (shape,)
    steps = tuple(
        _node(each, names, "" if pivot is None or place < pivot else "*"[: place == pivot] + "-")
        for place, each in enumerate(nodes)
    )
    plan = Plan("tree", steps, **{"max_redeliveries": 1, **limits})
    keys = ["input", ITEMS, "item", SHARED, *"abcdefghij"]
    reads = tuple(Input(key, (key,), required=False) for key in keys)

    def reading(call: Call) -> Call:
        return replace(call, inputs=reads) if not call.task.startswith(("do.", "if.")) else call

    return plan.with_calls(reading)


def _node(shape: Shape, names: Iterator[str], past: str) -> Node:
    if isinstance(shape, str):
        return _leaf(shape, next(names), past)
    kind, *inside = shape
    nodes = [_node(each, names, past.strip("*")) for each in inside]
    if kind == "seq":
        return seq(*nodes)
    if kind in AT_ONCE:
        return par(*nodes, together=kind != "par")
    if kind == EITHER:
        return choice(nodes[0], otherwise=nodes[1])
    return _around(kind, nodes[0])


def _around(kind: str, node: Node) -> Node:
    if kind == "if":
        return choice(node)
    if kind == "else":  # two conditions, and nothing to do for the first
        return choice(Sleep(f"rest {node.name}", 5.0), node)
    if kind == "timeout":
        return Wait(f"wait {node.name}", f"go {node.name}", 5.0, on_timeout=node, key="signal")
    if kind in ("each", "together"):
        return each(node, over=ITEMS, parallel=kind == "together")
    first = node.steps if isinstance(node, NestedSaga) and not node.scoped else (node,)
    inputs = {"order": "input", ITEMS: ITEMS}
    return saga(*first, inputs=inputs, returns={f"of {node.name}": SHARED})


def _leaf(kind: str, name: str, past: str) -> Node:
    if kind == "wait":
        return Wait(name, f"go {name}", key=name)
    if kind == "limited":
        return Wait(name, f"go {name}", 5.0, key=name)
    if kind == "sleep":
        return Sleep(name, 5.0)
    flags = kind.strip(STEP)
    step: PlanStep = steps_of(f"{name}{past or flags}")[0]
    return step
