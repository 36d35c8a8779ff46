"""Short words for plans that are trees: ``par("a", seq("b", "c"))``.

A step is written as in :mod:`tests.core.scenario`, with its flags; steps one after the other may
be one text, ``"a b"``. A group is named by the nodes inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from celery_saga.core.plan import (
    Call,
    Case,
    Choice,
    Commits,
    ForEach,
    NestedSaga,
    Node,
    Parallel,
    Plan,
    PlanStep,
)
from tests.core.scenario import steps_of

ITEMS = MappingProxyType({"items": [1, 2]})


class Row(NamedTuple):
    """A scenario.

    Args:
        id: of the row.
        plan: the tree.
        script: what happens after the start.
        status: of the saga at the end.
        sent: all that was sent, in order.
        values: the context at the start.
    """

    id: str
    plan: Plan
    script: str
    status: str
    sent: str
    values: Mapping[str, Any] = ITEMS


#: A node, or the text of a step.
Word = Node | str


def node_of(word: Word) -> Node:
    """The node that a word describes; several steps are a sequence."""
    if not isinstance(word, str):
        return word
    steps = steps_of(word)
    return steps[0] if len(steps) == 1 else seq(*steps)


def _nodes(words: tuple[Word, ...]) -> tuple[Node, ...]:
    found: list[Node] = []
    for word in words:
        found += steps_of(word) if isinstance(word, str) else [word]
    return tuple(found)


def _name(kind: str, nodes: tuple[Node, ...]) -> str:
    return f"{kind}({' '.join(node.name for node in nodes)})"


def tree(*words: Word, **limits: Any) -> Plan:
    """A plan of nodes one after the other, and then of commit tasks, if a step has one."""
    plan = Plan("tree", _nodes(words), **{"max_redeliveries": 1, **limits})
    if any(isinstance(node, PlanStep) and node.commit for _, node in plan.walk()):
        return replace(plan, steps=(*plan.steps, Commits()))
    return plan


def seq(*words: Word) -> NestedSaga:
    """Nodes one after the other, in the context around them."""
    nodes = _nodes(words)
    return NestedSaga(_name("seq", nodes), nodes)


def saga(
    *words: Word, inputs: Mapping[str, str] | None = None, returns: Mapping[str, str] | None = None
) -> NestedSaga:
    """A saga as a step, which sees and returns a part of the context."""
    nodes = _nodes(words)
    return NestedSaga(_name("saga", nodes), nodes, inputs or {}, returns or {})


def par(*words: Word, together: bool = False) -> Parallel:
    """Branches at the same time.

    Args:
        together: their compensations may run at the same time, too.
    """
    nodes = tuple(map(node_of, words))
    return Parallel(_name("par", nodes), nodes, together)


def choice(*words: Word, otherwise: Word | None = None) -> Choice:
    """Alternatives; the condition of the first one is the task ``if.0``."""
    nodes = tuple(map(node_of, words))
    cases = tuple(Case(Call(f"if.{place}"), node) for place, node in enumerate(nodes))
    rest = None if otherwise is None else node_of(otherwise)
    return Choice(_name("choice", nodes), cases, rest)


def each(
    word: Word,
    *,
    over: str = "items",
    parallel: bool = False,
    returns: str | None = None,
    together: bool = False,
) -> ForEach:
    """A loop over a list of the context; its items are called ``item``."""
    body = node_of(word)
    return ForEach(_name("each", (body,)), (over,), "item", body, parallel, returns, together)


def shown(node: Node) -> str:
    """A node as text, with all that makes it differ from others."""
    if isinstance(node, PlanStep):
        flags = (("-", node.compensation is None), ("*", node.pivot), ("!", not node.action.rerun))
        return node.name + "".join(flag for flag, has in flags if has)
    return node.name
