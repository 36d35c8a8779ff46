"""Sagas that are trees, one line a scenario: what happens, what is sent, its state then."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from celery_saga.core.plan import Plan
from celery_saga.core.state import Direction
from tests.core.scenario import Scenario
from tests.core.trees import ITEMS, Row, choice, each, par, saga, seq, tree

OLD = MappingProxyType({"k": "old", "items": ["one", "two"]})


PAIR = tree(par("a", "b"))
TRIO = tree(par("a", "b", "d"))
THEN = tree(par("a b", "d"), "e")
PAST = tree("a*", par("b- d-", "e-"), "g-")

ROWS = [
    # Groups: forward.
    Row("all branches begin at once", PAIR, "", "RUNNING", "f0.0~1 f0.1~1"),
    Row("the last branch ends it", PAIR, "f0.1 ok, f0.0 ok", "COMPLETED", "f0.0~1 f0.1~1"),
    Row(
        "what follows waits for all",
        THEN,
        "f0.1 ok, f0.0.0 ok, f0.0.1 ok",
        "RUNNING",
        "f0.0.0~1 f0.1~1 f0.0.1~1 f1~1",
    ),
    # Groups: a branch fails.
    Row(
        "unclaimed siblings are withdrawn",
        TRIO,
        "f0.0 ok, f0.1 fails",
        "COMPENSATING",
        "f0.0~1 f0.1~1 f0.2~1 c0.0~2",
    ),
    Row(
        "a withdrawn sibling is not to be claimed",
        TRIO,
        "f0.0 ok, f0.1 fails, f0.2~1 ok, c0.0 ok, c0.2 ok",
        "COMPENSATED",
        # The body that ran without a claim has reported its effect.
        "f0.0~1 f0.1~1 f0.2~1 c0.0~2 c0.2~2",
    ),
    Row(
        "claimed siblings are awaited",
        TRIO,
        "f0.0 ok, f0.2 claimed, f0.1 fails",
        "RUNNING",
        "f0.0~1 f0.1~1 f0.2~1",
    ),
    Row(
        "the reverse order of completion",
        TRIO,
        "f0.2 ok, f0.0 claimed, f0.1 fails, f0.0 ok, c0.0 ok, c0.2 ok",
        "COMPENSATED",
        "f0.0~1 f0.1~1 f0.2~1 c0.0~2 c0.2~2",
    ),
    Row(
        "a step that was run again counts by its last end",
        tree(par("a", "b", "d")),
        "f0.0 void, f0.1 ok, f0.0 ok, f0.2 fails, c0.0 ok",
        "COMPENSATING",
        "f0.0~1 f0.1~1 f0.2~1 f0.0~2 c0.0~3 c0.1~2",
    ),
    Row(
        "a rerun that fails cleanly counts by its last end",
        tree(par("a", "b", "d")),
        "f0.0 void, f0.1 ok, f0.0 fails, c0.0 ok",
        "COMPENSATING",
        "f0.0~1 f0.1~1 f0.2~1 f0.0~2 c0.0~3 c0.1~2",
    ),
    Row(
        "a withdrawn rerun is compensated",
        PAIR,
        "f0.0 void, cancel",
        "COMPENSATING",
        "f0.0~1 f0.1~1 f0.0~2 c0.0~3",
    ),
    Row(
        "an unknown outcome is compensated",
        tree(par("a!", "b")),
        "f0.0 void, c0.0 ok",
        "COMPENSATED",
        "f0.0~1 f0.1~1 c0.0~2",
    ),
    Row(
        "a branch sends nothing more",
        THEN,
        "f0.0.0 claimed, f0.1 fails, f0.0.0 ok, c0.0.0 ok",
        "COMPENSATED",
        "f0.0.0~1 f0.1~1 c0.0.0~2",
    ),
    Row(
        "two siblings fail",
        TRIO,
        "f0.2 ok, f0.1 claimed, f0.0 fails, f0.1 fails, c0.2 ok",
        "COMPENSATED",
        "f0.0~1 f0.1~1 f0.2~1 c0.2~2",
    ),
    Row(
        "a compensation that fails does not hold up the others",
        TRIO,
        "f0.2 ok, f0.0 ok, f0.1 fails, c0.0 fails final, c0.2 ok",
        "STUCK",
        "f0.0~1 f0.1~1 f0.2~1 c0.0~2 c0.2~2",
    ),
    Row(
        "an input that is missing ends the fork",
        tree(par("a", "b<k", "d")),
        "",
        "COMPENSATED",
        "",
    ),
    Row(
        "a retry that waits is withdrawn",
        tree(par("a%3", "b")),
        "f0.0 fails, f0.1 fails",
        "COMPENSATED",
        "f0.0~1 f0.1~1",
    ),
    # Groups: cancel and deadline.
    Row("cancel before a claim", PAIR, "cancel", "COMPENSATED", "f0.0~1 f0.1~1"),
    Row(
        "cancel under a claim",
        PAIR,
        "f0.0 claimed, cancel, f0.0 ok",
        "COMPENSATING",
        "f0.0~1 f0.1~1 c0.0~2",
    ),
    # compensate="parallel".
    Row(
        "compensations at the same time",
        tree(par("a", "b", "d", together=True)),
        "f0.0 ok, f0.1 ok, f0.2 fails",
        "COMPENSATING",
        "f0.0~1 f0.1~1 f0.2~1 c0.1~2 c0.0~2",
    ),
    Row(
        "each branch in reverse, the group before what was before it",
        tree("a", par("b d", "e", together=True), "g"),
        "f0 ok, f1.0.0 ok, f1.1 ok, f1.0.1 ok, f2 fails, c1.0.1 ok, c1.1 ok, c1.0.0 ok",
        "COMPENSATING",
        "f0~1 f1.0.0~1 f1.1~1 f1.0.1~1 f2~1 c1.0.1~2 c1.1~2 c1.0.0~2 c0~2",
    ),
    Row(
        "one of them fails",
        tree(par("a", "b", "d", together=True)),
        "f0.0 ok, f0.1 ok, f0.2 fails, c0.0 fails final, c0.1 ok",
        "STUCK",
        "f0.0~1 f0.1~1 f0.2~1 c0.1~2 c0.0~2",
    ),
    # Joins.
    Row(
        "two values for one key fail the join",
        PAIR,
        "f0.0 ok k=1, f0.1 ok k=2, c0.1 ok, c0.0 ok",
        "COMPENSATED",
        "f0.0~1 f0.1~1 c0.1~2 c0.0~2",
    ),
    Row(
        "one value for one key",
        PAIR,
        "f0.0 ok k=1, f0.1 ok k=1",
        "COMPLETED",
        "f0.0~1 f0.1~1",
    ),
    Row(
        "a join that fails after the pivot",
        tree("a*", par("b-", "d-"), "e-"),
        "f0 ok, f1.0 ok k=1, f1.1 ok k=2",
        "STUCK",
        "f0~1 f1.0~1 f1.1~1",
    ),
    Row(
        "and is skipped",
        tree("a*", par("b-", "d-"), "e-"),
        "f0 ok, f1.0 ok k=1, f1.1 ok k=2, skip, f2 ok",
        "COMPLETED",
        "f0~1 f1.0~1 f1.1~1 f2~1",
    ),
    Row(
        "and fails again",
        tree("a*", par("b-", "d-"), "e-"),
        "f0 ok, f1.0 ok k=1, f1.1 ok k=2, retry",
        "STUCK",
        "f0~1 f1.0~1 f1.1~1",
    ),
    # Pauses.
    Row(
        "a pause lets a branch end",
        THEN,
        "f0.0.0 claimed, pause, f0.0.0 ok",
        "PAUSED",
        "f0.0.0~1 f0.1~1",
    ),
    Row(
        "a resume continues each branch",
        THEN,
        "pause, f0.0.0 ok, f0.1 ok, resume",
        "RUNNING",
        "f0.0.0~1 f0.1~1 f0.0.1~1",
    ),
    Row(
        "a resume begins what a join has opened",
        tree(par("a", "b"), par("d", "e")),
        "pause, f0.0 ok, f0.1 ok, resume",
        "RUNNING",
        "f0.0~1 f0.1~1 f1.0~1 f1.1~1",
    ),
    Row(
        "a resume at the end",
        PAIR,
        "pause, f0.0 ok, f0.1 ok",
        "COMPLETED",
        "f0.0~1 f0.1~1",
    ),
    Row(
        "a pause of the rollback",
        PAIR,
        "f0.0 ok, f0.1 claimed, pause, f0.1 fails, resume, c0.0 ok",
        "COMPENSATED",
        "f0.0~1 f0.1~1 c0.0~2",
    ),
    # Stuck after a pivot.
    Row(
        "its siblings continue",
        PAST,
        "f0 ok, f1.0.0 fails, f1.1 ok",
        "STUCK",
        "f0~1 f1.0.0~1 f1.1~1",
    ),
    Row(
        "and a sibling goes to its end",
        tree("a*", par("b- d-", "e-")),
        "f0 ok, f1.1 fails, f1.0.0 ok",
        "RUNNING",
        "f0~1 f1.0.0~1 f1.1~1 f1.0.1~1",
    ),
    Row(
        "an operator's retry",
        PAST,
        "f0 ok, f1.0.0 fails, f1.1 ok, retry, f1.0.0 ok, f1.0.1 ok, f2 ok",
        "COMPLETED",
        "f0~1 f1.0.0~1 f1.1~1 f1.0.0~2 f1.0.1~1 f2~1",
    ),
    Row(
        "an operator's skip",
        PAST,
        "f0 ok, f1.0.0 fails, f1.1 ok, skip, f1.0.1 ok, f2 ok",
        "COMPLETED",
        "f0~1 f1.0.0~1 f1.1~1 f1.0.1~1 f2~1",
    ),
    Row(
        "two branches are stuck, both tried again",
        PAST,
        "f0 ok, f1.0.0 fails, f1.1 fails, retry",
        "RUNNING",
        "f0~1 f1.0.0~1 f1.1~1 f1.0.0~2 f1.1~2",
    ),
    Row(
        "two branches are stuck, one is skipped",
        PAST,
        "f0 ok, f1.0.0 fails, f1.1 fails, skip, f1.0.1 ok",
        "STUCK",
        "f0~1 f1.0.0~1 f1.1~1 f1.0.1~1",
    ),
    Row(
        "two branches are stuck, the last one is skipped",
        tree("a*", par("b-", "e-"), "g-"),
        "f0 ok, f1.0 fails, f1.1 fails, skip, skip, f2 ok",
        "COMPLETED",
        "f0~1 f1.0~1 f1.1~1 f2~1",
    ),
    Row(
        "a pause keeps a saga with a branch to continue from being stuck",
        PAST,
        "f0 ok, pause, f1.1 fails, f1.0.0 ok, resume, f1.0.1 ok",
        "STUCK",
        "f0~1 f1.0.0~1 f1.1~1 f1.0.1~1",
    ),
    Row(
        "a task that no worker knows before the pivot",
        tree(par("a", "b")),
        "f0.0 unknown, wait 700, f0.0 unknown, f0.1 ok",
        "STUCK",
        "f0.0~1 f0.1~1",
    ),
    Row(
        "and a sibling that fails",
        tree(par("a", "b d", "e")),
        "f0.2 ok, f0.0 unknown, wait 700, f0.0 unknown, f0.1.0 fails, c0.2 ok",
        "COMPENSATED",
        "f0.0~1 f0.1.0~1 f0.2~1 c0.2~2",
    ),
    Row(
        "and a cancel",
        tree(par("a", "b")),
        "f0.0 unknown, wait 700, f0.0 unknown, f0.1 ok, cancel, c0.1 ok",
        "COMPENSATED",
        "f0.0~1 f0.1~1 c0.1~2",
    ),
    # Late effects.
    Row(
        "a late effect in a branch",
        PAIR,
        "f0.0 void, f0.0 claimed, f0.1 fails, f0.0 fails, c0.0 ok, f0.0~1 ok, c0.0 ok",
        "COMPENSATED",
        "f0.0~1 f0.1~1 f0.0~2 c0.0~3 c0.0~4",
    ),
    Row(
        "a late effect while a sibling is awaited",
        tree(par("a", "b", "d")),
        "f0.0 claimed, f0.1 claimed, f0.2 fails, f0.0 void, f0.0~1 ok, f0.1 fails, c0.0 ok",
        "COMPENSATED",
        "f0.0~1 f0.1~1 f0.2~1 c0.0~2",
    ),
    Row(
        "a late effect comes before a compensation that was lost",
        TRIO,
        "f0.0 ok, f0.1 fails, f0.2~1 ok, c0.0 void, c0.2 ok, c0.0 ok",
        "COMPENSATED",
        "f0.0~1 f0.1~1 f0.2~1 c0.0~2 c0.2~2 c0.0~3",
    ),
    # Choices.
    Row(
        "the first that is true",
        tree(choice("a", "b"), "d"),
        "f0 false, f0 true, f0.1 ok, f1 ok",
        "COMPLETED",
        "f0~1 f0~2 f0.1~1 f1~1",
    ),
    Row(
        "conditions are asked in order",
        tree(choice("a", "b")),
        "f0 true, f0.0 ok",
        "COMPLETED",
        "f0~1 f0.0~1",
    ),
    Row(
        "otherwise",
        tree(choice("a", otherwise="b d")),
        "f0 false, f0.1.0 ok, f0.1.1 ok",
        "COMPLETED",
        "f0~1 f0.1.0~1 f0.1.1~1",
    ),
    Row("none", tree(choice("a"), "b"), "f0 false, f1 ok", "COMPLETED", "f0~1 f1~1"),
    Row("none at the end", tree(choice("a")), "f0 false", "COMPLETED", "f0~1"),
    Row(
        "a condition fails",
        tree("a", choice("b")),
        "f0 ok, f1 fails, c0 ok",
        "COMPENSATED",
        "f0~1 f1~1 c0~2",
    ),
    Row(
        "a condition that is lost is asked again",
        tree(choice("b")),
        "f0 void, f0 true",
        "RUNNING",
        "f0~1 f0~2 f0.0~1",
    ),
    Row(
        "a cancel before a condition is claimed",
        tree("a", choice("b")),
        "f0 ok, cancel, c0 ok",
        "COMPENSATED",
        "f0~1 f1~1 c0~2",
    ),
    Row(
        "a cancel while a condition is asked",
        tree("a", choice("b", "d")),
        "f0 ok, f1 claimed, cancel, f1 false, c0 ok",
        "COMPENSATED",
        "f0~1 f1~1 c0~2",
    ),
    Row(
        "a pause while a condition is asked",
        tree(choice("b", "d")),
        "f0 claimed, pause, f0 false, resume, f0 claimed, pause, f0 true, resume",
        "RUNNING",
        "f0~1 f0~2 f0.1~1",
    ),
    Row(
        "a condition after the pivot is stuck and asked again",
        tree("a*", choice("b-", "d-")),
        "f0 ok, f1 false, f1 fails, retry, f1 true",
        "RUNNING",
        "f0~1 f1~1 f1~2 f1~3 f1.1~1",
    ),
    Row(
        "a condition after the pivot is skipped",
        tree("a*", choice("b-", "d-"), "e-"),
        "f0 ok, f1 fails, skip, f2 ok",
        "COMPLETED",
        "f0~1 f1~1 f2~1",
    ),
    # Loops.
    Row(
        "items one after the other",
        tree(each("a"), "b"),
        "f0.0 ok, f0.1 ok, f1 ok",
        "COMPLETED",
        "f0.0~1 f0.1~1 f1~1",
    ),
    Row(
        "items at the same time",
        tree(each("a", parallel=True), "b"),
        "f0.1 ok, f0.0 ok, f1 ok",
        "COMPLETED",
        "f0.0~1 f0.1~1 f1~1",
    ),
    Row(
        "each item is compensated",
        tree(each("a"), "b"),
        "f0.0 ok, f0.1 ok, f1 fails, c0.1 ok, c0.0 ok",
        "COMPENSATED",
        "f0.0~1 f0.1~1 f1~1 c0.1~2 c0.0~2",
    ),
    Row(
        "in the reverse order of completion",
        tree(each("a", parallel=True), "b"),
        "f0.1 ok, f0.0 ok, f1 fails, c0.0 ok, c0.1 ok",
        "COMPENSATED",
        "f0.0~1 f0.1~1 f1~1 c0.0~2 c0.1~2",
    ),
    Row(
        "or at the same time",
        tree(each("a", parallel=True, together=True), "b"),
        "f0.1 ok, f0.0 ok, f1 fails",
        "COMPENSATING",
        "f0.0~1 f0.1~1 f1~1 c0.0~2 c0.1~2",
    ),
    Row("an empty list", tree(each("a"), "b"), "", "RUNNING", "f1~1", {"items": []}),
    Row(
        "an empty list at the same time",
        tree(each("a", parallel=True), "b"),
        "",
        "RUNNING",
        "f1~1",
        {"items": []},
    ),
    Row("nothing but an empty list", tree(each("a")), "", "COMPLETED", "", {"items": []}),
    Row(
        "an empty list as a branch",
        tree(par(each("a"), "b"), "d"),
        "f0.1 ok, f1 ok",
        "COMPLETED",
        "f0.1~1 f1~1",
        {"items": []},
    ),
    Row(
        "not a list", tree("a", each("b")), "f0 ok, c0 ok", "COMPENSATED", "f0~1 c0~2", {"items": 7}
    ),
    Row("no list", tree("a", each("b")), "f0 ok, c0 ok", "COMPENSATED", "f0~1 c0~2", {}),
    Row(
        "too many items",
        tree("a", each("b")),
        "f0 ok, c0 ok",
        "COMPENSATED",
        "f0~1 c0~2",
        {"items": list(range(1001))},
    ),
    Row(
        "a bad list after the pivot is corrected",
        tree("a*", each("b-")),
        "f0 ok, retry items=xy, retry items=",
        "STUCK",
        "f0~1",
        {"items": 7},
    ),
    Row(
        "a loop in a loop",
        tree(each(each("a", over="item", parallel=True))),
        "f0.0.0 ok, f0.0.1 ok, f0.1.0 ok",
        "COMPLETED",
        "f0.0.0~1 f0.0.1~1 f0.1.0~1",
        {"items": [[1, 2], [3]]},
    ),
    Row(
        "a pause between two items",
        tree(each("a")),
        "f0.0 claimed, pause, f0.0 ok, resume, f0.1 ok",
        "COMPLETED",
        "f0.0~1 f0.1~1",
    ),
    Row(
        "a loop that changes its list",
        tree(each("a")),
        "f0.0 ok items=x, f0.1 ok",
        "COMPLETED",
        "f0.0~1 f0.1~1",
    ),
    # Sagas in sagas.
    Row(
        "a saga as a step",
        tree("a", saga("b d"), "e"),
        "f0 ok, f1.0 ok, f1.1 ok, f2 fails, c1.1 ok, c1.0 ok, c0 ok",
        "COMPENSATED",
        "f0~1 f1.0~1 f1.1~1 f2~1 c1.1~2 c1.0~2 c0~2",
    ),
    Row(
        "a saga as a branch of a branch",
        tree(par(seq("a", par("b", "d")), saga("e"))),
        "f0.0.0 ok, f0.0.1.1 ok, f0.1.0 ok, f0.0.1.0 fails, c0.1.0 ok, c0.0.1.1 ok",
        "COMPENSATING",
        "f0.0.0~1 f0.1.0~1 f0.0.1.0~1 f0.0.1.1~1 c0.1.0~2 c0.0.1.1~2 c0.0.0~2",
    ),
]


def played(plan: Plan, script: str, values: Mapping[str, Any] = ITEMS) -> Scenario:
    """The saga after a script, which begins with its start."""
    return Scenario.of(plan, values=values).play(", ".join(filter(None, ("start", script))))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_row(row: Row) -> None:
    scenario = played(row.plan, row.script, row.values)
    assert " ".join(scenario.sent) == row.sent
    assert scenario.execution.status.value == row.status


class Context(NamedTuple):
    """What is in the context after a script.

    Args:
        id: of the row.
        plan: the tree.
        script: what happens after the start.
        context: of the saga at the end.
        values: the context at the start.
    """

    id: str
    plan: Plan
    script: str
    context: dict[str, Any]
    values: Mapping[str, Any] = MappingProxyType({})


CONTEXTS = [
    Context("a join", PAIR, "f0.0 ok x=1, f0.1 ok y=2", {"x": "1", "y": "2"}),
    Context("the same twice", PAIR, "f0.0 ok x=1, f0.1 ok x=1", {"x": "1"}),
    Context("before the join", PAIR, "f0.0 ok x=1", {}),
    Context("a key that a branch removes", PAIR, "f0.0 ok -x, f0.1 ok", {}, {"x": 1}),
    Context("a key that both remove", PAIR, "f0.0 ok -x, f0.1 ok -x", {}, {"x": 1}),
    Context(
        "a key that a branch removes and writes again",
        tree(par("a b", "d")),
        "f0.0.0 ok -x, f0.0.1 ok x=2, f0.1 ok",
        {"x": "2"},
        {"x": 1},
    ),
    Context(
        "a list at the same time",
        tree(each("a", parallel=True)),
        "f0.1 ok x=b, f0.0 ok x=a",
        {"x": ["a", "b"], **ITEMS},
        ITEMS,
    ),
    Context(
        "a list with a place that is empty",
        tree(each("a", parallel=True)),
        "f0.1 ok x=b, f0.0 ok",
        {"x": [None, "b"], **ITEMS},
        ITEMS,
    ),
    Context(
        "a key that items remove",
        tree(each("a", parallel=True)),
        "f0.1 ok -x, f0.0 ok -x",
        ITEMS,
        {"x": 1, **ITEMS},
    ),
    Context(
        "a key that one item removes and another one writes",
        tree(each("a", parallel=True)),
        "f0.1 ok -x, f0.0 ok x=a",
        {"x": ["a", None], **ITEMS},
        {"x": 1, **ITEMS},
    ),
    Context(
        "one after the other",
        tree(each("a")),
        "f0.0 ok x=a y=1, f0.1 ok x=b",
        {"x": "b", "y": "1", **ITEMS},
        ITEMS,
    ),
    Context(
        "one after the other, which remove a key",
        tree(each("a")),
        "f0.0 ok -x, f0.1 ok",
        ITEMS,
        {"x": 1, **ITEMS},
    ),
    Context(
        "the list of one key",
        tree(each("a", returns="x")),
        "f0.0 ok x=a y=1, f0.1 ok x=b",
        {"x": ["a", "b"], **ITEMS},
        ITEMS,
    ),
    Context(
        "the list of one key at the same time",
        tree(each("a", returns="x", parallel=True)),
        "f0.1 ok x=a y=1, f0.0 ok",
        {"x": [None, "a"], **ITEMS},
        ITEMS,
    ),
    Context(
        "the list of one key that an item removes",
        tree(each("a", returns="x", parallel=True)),
        "f0.1 ok x=a, f0.0 ok -x",
        {"x": [None, "a"], **ITEMS},
        {"x": 1, **ITEMS},
    ),
    Context(
        "the list of no items",
        tree(each("a", returns="x")),
        "",
        {"x": [], "items": []},
        {"items": []},
    ),
    Context(
        "what a saga returns",
        tree(saga("a b", inputs={}, returns={"out": "x"})),
        "f0.0 ok x=1 y=2, f0.1 ok",
        {"out": "1"},
    ),
    Context(
        "what a saga returns that it only sees",
        tree(saga("a", inputs={"x": "input"}, returns={"out": "x"})),
        "f0.0 ok",
        {"out": 1},
    ),
    Context(
        "what a saga returns and does not have",
        tree(saga("a", inputs={}, returns={"out": "x"})),
        "f0.0 ok",
        {},
    ),
    Context(
        "a choice writes into the context around it",
        tree(par(choice("a"), "b")),
        "f0.0 true, f0.0.0 ok x=1, f0.1 ok",
        {"x": "1"},
    ),
]


@pytest.mark.parametrize("row", CONTEXTS, ids=lambda row: row.id)
def test_context(row: Context) -> None:
    context = played(row.plan, row.script, row.values).execution.context
    assert dict(context) == {"input": 1, **row.context}


class Inputs(NamedTuple):
    """What a compensation gets, whose step needs ``k``.

    Args:
        id: of the row.
        plan: the tree.
        script: what happens after the start.
        path: of the step.
        inputs: what its compensation sees under ``k``; ``None``: nothing.
        values: the context at the start.
    """

    id: str
    plan: Plan
    script: str
    path: tuple[int, ...]
    inputs: Any
    values: Mapping[str, Any] = OLD


INPUTS = [
    Inputs("what others wrote later", tree("a>k", "b"), "f0 ok, f1 ok k=new", (0,), "old"),
    Inputs("its own", tree("a>k", "b"), "f0 ok k=own, f1 ok k=new", (0,), "own"),
    Inputs("of a sibling, before the join", PAIR, "f0.0 ok", (0, 0), "old"),
    Inputs(
        "the join of the last branch",
        tree(par("a", "b>k"), "d"),
        "f0.0 ok k=new, f0.1 ok",
        (0, 1),
        "old",
    ),
    Inputs(
        "the join, first branch",
        tree(par("a>k", "b"), "d"),
        "f0.0 ok, f0.1 ok k=new",
        (0, 0),
        "old",
    ),
    Inputs(
        "a later step of its branch",
        tree(par("a>k b", "d")),
        "f0.0.0 ok, f0.0.1 ok k=new, f0.1 ok",
        (0, 0, 0),
        "old",
    ),
    Inputs(
        "a later item",
        tree(each("a>k")),
        "f0.0 ok, f0.1 ok k=new",
        (0, 0),
        "old",
    ),
    Inputs(
        "the last item, after the list",
        tree(each("a>k", parallel=True)),
        "f0.0 ok k=x, f0.1 ok",
        (0, 1),
        "old",
    ),
    Inputs(
        "its item",
        tree(each("a>item", parallel=True)),
        "f0.0 ok, f0.1 ok",
        (0, 1),
        "two",
    ),
    Inputs(
        "a later step, of a step in a saga",
        tree(saga("a>x", inputs={"x": "k"}, returns={}), "b"),
        "f0.0 ok, f1 ok k=new",
        (0, 0),
        "old",
    ),
    Inputs(
        "what its saga returns",
        tree(saga("a>k", "b", inputs={"k": "k"}, returns={"k": "out"})),
        "f0.0 ok, f0.1 ok out=new",
        (0, 0),
        "old",
    ),
    Inputs(
        "a key that was not there",
        tree(par("a>k", "b"), "d"),
        "f0.0 ok, f0.1 ok k=new",
        (0, 0),
        None,
        {},
    ),
    Inputs(
        "a key that is removed later",
        tree("a>k", "b"),
        "f0 ok, f1 ok -k",
        (0,),
        "old",
    ),
    Inputs(
        "a key that a later step removes in its branch",
        tree(par("a>k b", "d")),
        "f0.0.0 ok, f0.0.1 ok -k, f0.1 ok",
        (0, 0, 0),
        "old",
    ),
]


@pytest.mark.parametrize("row", INPUTS, ids=lambda row: row.id)
def test_inputs_of_a_compensation(row: Inputs) -> None:
    execution = played(row.plan, row.script, row.values).execution
    found = execution.inputs_of(row.path, Direction.COMPENSATION)
    step = execution.plan.step(row.path)
    key = next(iter(step.later_reads), "k")
    assert found.get(key) == row.inputs


@pytest.mark.parametrize(
    ("plan", "script", "values", "text"),
    [
        (
            PAIR,
            "f0.0 ok k=1, f0.1 ok k=2",
            {},
            "celery_saga.errors.JoinConflict: branches 'a' and 'b' wrote different values of 'k'",
        ),
        (
            tree(each("a")),
            "",
            {"items": 7},
            "celery_saga.errors.BadItems: expected a list at context['items'], "
            "found a value of type int",
        ),
        (
            tree(each("a")),
            "",
            {},
            "celery_saga.errors.BadItems: expected a list at context['items'], found nothing there",
        ),
        (
            tree(each("a")),
            "",
            {"items": [0] * 1001},
            "celery_saga.errors.BadItems: expected at most 1000 items at context['items'], "
            "found 1001 items: start a saga for each part of the list",
        ),
    ],
    ids=["join", "not a list", "no list", "too many"],
)
def test_a_node_that_fails(plan: Plan, script: str, values: dict[str, Any], text: str) -> None:
    error = played(plan, script, values).execution.error
    assert error is not None
    assert (str(error), error.step) == (text, plan.steps[0].name)


def test_a_thousand_items() -> None:
    scenario = played(tree(each("a", parallel=True)), "", {"items": [0] * 1000})
    assert len(scenario.sent) == len(set(scenario.sent)) == 1000
    assert scenario.execution.steps[0, 7].name == "a[7]"
    keys = {scenario.execution.idempotency_key((0, n), Direction.FORWARD) for n in range(1000)}
    assert len(keys) == 1000
