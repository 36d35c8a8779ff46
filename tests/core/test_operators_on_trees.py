"""What an operator's skip and retry do to nodes of a tree, and to what is rolled back later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from celery_saga.core.decide.repair import obstacle_of
from celery_saga.core.plan import Plan
from tests.core.scenario import Scenario, plan_of
from tests.core.trees import choice, each, par, saga, seq, tree

OLD = {"k": "old", "items": [1, 2]}


def played(plan: Plan, script: str, values: Mapping[str, Any] = OLD) -> Scenario:
    return Scenario.of(plan, values=values).play(f"start, {script}")


def statuses(scenario: Scenario) -> dict[str, str]:
    return {step.name: step.status.value for step in scenario.execution.steps}


class TestASkipIsOfWhatIsShown:
    """Of several branches that cannot continue, the one whose error is shown."""

    PLAN = tree("a*", par("b-", "d-", seq("e-", "g-")), "h-")

    @pytest.mark.parametrize(
        ("script", "first"),
        [
            ("f1.0 fails, f1.1 fails, f1.2.0 fails", "b"),
            ("f1.1 fails, f1.0 fails, f1.2.0 fails", "d"),
            ("f1.2.0 fails, f1.1 fails, f1.0 fails", "e"),
            ("f1.1 fails, f1.2.0 ok, f1.2.1 fails, f1.0 fails", "d"),
            ("f1.2.0 ok, f1.2.1 fails, f1.0 fails, f1.1 fails", "g"),
        ],
    )
    def test_each_in_its_turn(self, script: str, first: str) -> None:
        scenario = played(self.PLAN, f"f0 ok, {script}")
        seen = []
        while scenario.execution.status == "STUCK":
            obstacle = obstacle_of(scenario.execution)
            assert obstacle is not None
            seen.append(obstacle.step)
            scenario.play("skip")
            assert statuses(scenario)[obstacle.step] == "SKIPPED"
            if "e" in seen and scenario.execution.ref((1, 2, 1)):
                scenario.play("f1.2.1 ok")
        assert seen[0] == first
        assert scenario.sent[-1] == "f2~1"

    def test_of_items(self) -> None:
        plan = tree("a*", each("b-", parallel=True))
        scenario = played(plan, "f0 ok, f1.1 fails, f1.0 fails, skip")
        assert statuses(scenario) == {"a": "SUCCEEDED", "b[0]": "FAILED", "b[1]": "SKIPPED"}


class TestAFailedJoin:
    PLAN = tree("a*", par("b-", seq("d-"), saga("e-", inputs={"x": "k"}, returns={"k": "k"})), "z-")
    CONFLICT = "f0 ok, f1.0 ok k=1 b=1, f1.1.0 ok k=2 d=2, f1.2.0 ok"

    def test_a_corrected_value_holds_for_all_branches(self) -> None:
        """Past the pivot nothing else can repair it."""
        scenario = played(self.PLAN, f"{self.CONFLICT}, retry k=right")
        assert scenario.sent[-1] == "f2~1"
        assert {"k": "right", "b": "1", "d": "2"}.items() <= scenario.execution.context.items()

    def test_another_value_does_not_help(self) -> None:
        scenario = played(self.PLAN, f"{self.CONFLICT}, retry other=1")
        assert scenario.execution.status == "STUCK"

    def test_a_skip_keeps_what_the_branches_agree_on(self) -> None:
        scenario = played(self.PLAN, f"{self.CONFLICT}, skip")
        assert scenario.sent[-1] == "f2~1"
        assert {"k": "old", "b": "1", "d": "2"}.items() <= scenario.execution.context.items()

    def test_a_value_of_the_operator_and_a_skip(self) -> None:
        scenario = played(self.PLAN, f"{self.CONFLICT}, retry k=right")
        assert scenario.execution.context["k"] == "right"

    def test_of_branches_inside_a_branch(self) -> None:
        plan = tree("a*", par(seq(par("b-", "d-"), "e-"), "g-"), "z-")
        script = "f0 ok, f1.0.0.0 ok k=1, f1.0.0.1 ok k=2, f1.1 ok, retry k=right, f1.0.1 ok"
        scenario = played(plan, script)
        assert scenario.sent[-1] == "f2~1"
        assert scenario.execution.context["k"] == "right"


class TestAChoice:
    def test_a_skip_takes_no_alternative(self) -> None:
        plan = tree("a*", choice("b-&", "d-&"), "e-")
        scenario = played(plan, "f0 ok, f1 fails, skip, f2 ok")
        assert scenario.execution.status == "COMPLETED"
        assert statuses(scenario) == {"a": "SUCCEEDED", "choice(b d)": "SKIPPED", "e": "SUCCEEDED"}


def paused(shape: str) -> Plan:
    """The plan with each step before its pivot waiting for an operator."""
    plan = plan_of(shape)
    return replace(plan, steps=tuple(replace(it, on_exhausted="pause") for it in plan.steps))


class TestAStepBeforeThePivot:
    """An operator who skips it has done its work: the saga may still be rolled back."""

    @pytest.mark.parametrize(
        ("plan", "script", "sent"),
        [
            (paused("a b d"), "f0 ok, f1 fails, skip, f2 fails final, c1 ok", "c1~2 c0~2"),
            (paused("a b d"), "f0 ok, f1 fails, skip, cancel, c1 ok", "c1~2 c0~2"),
            (paused("a b- d"), "f0 ok, f1 fails, skip, f2 fails final", "f2~1 c0~2"),
            (paused("a b? d"), "f0 ok, f1 fails, skip, f2 fails final", "f2~1 c0~2"),
            (paused("a b d*"), "f0 ok, f1 fails, skip, f2 fails final, c1 ok", "c1~2 c0~2"),
        ],
    )
    def test_is_compensated_later(self, plan: Plan, script: str, sent: str) -> None:
        scenario = played(plan, script)
        assert " ".join(scenario.sent[-2:]) == sent
        scenario.play("c0 ok")
        assert scenario.execution.status == "COMPENSATED"

    def test_in_branches_in_the_order_of_completion(self) -> None:
        inner = paused("a b").steps
        plan = tree(par(*inner), "d")
        scenario = played(plan, "f0.0 fails, f0.1 ok, skip, f1 fails, c0.0 ok, c0.1 ok")
        assert scenario.execution.status == "COMPENSATED"

    def test_after_it_nothing_is_compensated(self) -> None:
        scenario = played(plan_of("a* b"), "f0 ok, f1 fails final, skip")
        assert scenario.execution.status == "COMPLETED"
        assert not scenario.execution.steps[1].effect

    def test_a_task_that_no_worker_knows(self) -> None:
        script = "f0 unknown, wait 700, f0 unknown, skip, f1 fails final, c0 ok"
        scenario = played(plan_of("a b"), script)
        assert scenario.execution.status == "COMPENSATED"
        assert scenario.sent[-1] == "c0~2"
