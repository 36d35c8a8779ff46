"""Sagas as Mermaid flowcharts."""

from __future__ import annotations

import re

import pytest

from celery_saga.core.plan import Call, ForEach, Plan, PlanStep, Sleep, Wait
from celery_saga.ops.graph import mermaid
from tests.core.scenario import Scenario, plan_of
from tests.core.trees import choice, each, par, saga, tree


def edges(text: str) -> list[str]:
    """All edges, such as ``begin>n0`` or ``n1-if.0>n1_0``."""
    found = re.findall(r'^ *(\w+) -->(?:\|"([^"]*)"\|)? (\w+)$', text, re.MULTILINE)
    return [f"{one}-{label}>{other}" if label else f"{one}>{other}" for one, label, other in found]


PLANS = {
    "steps": (plan_of("a b"), ["begin>n0", "n0>n1", "n1>finish"]),
    "branches": (
        tree("a", par("b", "c d"), "e"),
        [
            "begin>n0", "n0>n1f", "n1f>n1_0", "n1f>n1_1_0", "n1_1_0>n1_1_1", "n1_0>n1j",
            "n1_1_1>n1j", "n1j>n2", "n2>finish",
        ],
    ),
    "a choice": (
        tree(choice("a", "b"), "c"),
        ["begin>n0", "n0-if.0>n0_0", "n0-if.1>n0_1", "n0_0>n1", "n0_1>n1", "n0-otherwise>n1",
         "n1>finish"],
    ),
    "a choice with an alternative": (
        tree(choice("a", otherwise="b")),
        ["begin>n0", "n0-if.0>n0_0", "n0-otherwise>n0_1", "n0_0>finish", "n0_1>finish"],
    ),
    "a loop over a saga": (
        tree(each(saga("a", "b"))), ["begin>n0_0_0", "n0_0_0>n0_0_1", "n0_0_1>finish"],
    ),
    "a wait with a timeout": (
        Plan("s", (Wait("w", "go", 5.0, PlanStep("late", Call("t"))), Sleep("nap", 2.0))),
        ["begin>n0", "n0-timeout>n0_0", "n0>n1", "n0_0>n1", "n1>finish"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANS)
def test_what_follows_what(what: str) -> None:
    plan, expected = PLANS[what]
    text = mermaid(plan)
    assert sorted(edges(text)) == sorted(expected)
    assert text.count("subgraph") == len(re.findall(r"^ *end$", text, re.MULTILINE))


def test_statuses_of_a_run() -> None:
    played = Scenario.of(plan_of("a b c")).play("start, f0 ok, f1 fails")
    text = mermaid(played.execution.plan, played.execution)
    assert "COMPENSATING" in re.findall(r"n0\[.*", text)[0]
    assert re.findall(r"n(\d)\[.*:::(\w+)", text) == [("0", "back"), ("1", "bad")]
    assert "classDef back" in text
    assert "classDef good" not in text


def test_items_of_a_loop_are_counted() -> None:
    plan = tree(each("a", parallel=True))
    played = Scenario.of(plan, values={"items": [1, 2, 3]}).play("start, f0.0 ok, f0.2 ok")
    (node,) = re.findall(r"n0_0\[.*", mermaid(plan, played.execution))
    assert "2 SUCCEEDED" in node
    assert "1 RUNNING" in node
    assert node.endswith(":::active")


@pytest.mark.parametrize("name", ['a"b', "a<script>", "a#b;c", "end", "a\u202eb", "a`b`", "a|b"])
def test_names_have_no_meaning_in_the_chart(name: str) -> None:
    step = PlanStep(name, Call(name), Call(name))
    plan = Plan(name, (step, ForEach(name, (name,), name, step), Wait(name, name)))
    text = mermaid(plan)
    labels = re.findall(r'"([^"]*)"', text)
    assert len(labels) == text.count('"') / 2
    for label in labels:
        plain = re.sub(r"<(/?b|br/)>|&#8630;|#\d+;", "", label)
        assert not set(plain) & set('"#<>&;`|{}[]()\u202e')
