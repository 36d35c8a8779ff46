"""Commit tasks: what is sent when all steps have ended, and what then may happen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from celery_saga.core.execution import SagaExecution
from celery_saga.core.plan import Plan
from tests.core.scenario import Scenario
from tests.core.trees import ITEMS, Row, choice, each, par, saga, tree

TWO = tree("a& b&")
ENDED = "f0 ok, f1 ok"
SENT = "f0~1 f1~1 f2.0~1 f2.1~1"

ROWS = [
    Row("all at once behind the last step", TWO, ENDED, "RUNNING", SENT),
    Row("completed by the last of them", TWO, f"{ENDED}, f2.1 ok, f2.0 ok", "COMPLETED", SENT),
    Row("not before that", TWO, f"{ENDED}, f2.1 ok", "RUNNING", SENT),
    Row("only of steps that ask for it", tree("a b& d"), "f0 ok, f1 ok, f2 ok, f3.1 ok",
        "COMPLETED", "f0~1 f1~1 f2~1 f3.1~1"),
    Row("in the order in which the steps ended", tree(par("a&", "b&")), "f0.1 ok, f0.0 ok",
        "RUNNING", "f0.0~1 f0.1~1 f1.0.1~1 f1.0.0~1"),
    Row("none after a rollback", TWO, "f0 ok, f1 fails, c0 ok", "COMPENSATED", "f0~1 f1~1 c0~2"),
    Row("of each item", tree(each("a&")), "f0.0 ok, f0.1 ok, f1.0.1 ok, f1.0.0 ok",
        "COMPLETED", "f0.0~1 f0.1~1 f1.0.0~1 f1.0.1~1"),
    Row("of no item", tree("b", each("a&")), "f0 ok", "COMPLETED", "f0~1", {"items": []}),
    Row("of the alternative that was taken", tree(choice("a&", "b&")), "f0 false, f0 true, f0.1 ok",
        "RUNNING", "f0~1 f0~2 f0.1~1 f1.0.1~1"),
    Row("of no alternative", tree(choice("a&")), "f0 false", "COMPLETED", "f0~1"),
    Row("of steps of a nested saga, behind the last step of all", tree(saga("a& b"), "d"),
        "f0.0 ok, f0.1 ok, f1 ok", "RUNNING", "f0.0~1 f0.1~1 f1~1 f2.0.0~1"),
    Row("before the pivot, on it and after it", tree("a& b*& d-&"), "f0 ok, f1 ok, f2 ok",
        "RUNNING", "f0~1 f1~1 f2~1 f3.0~1 f3.1~1 f3.2~1"),
    # One fails.
    Row("tried again after its delay", TWO, f"{ENDED}, f2.0 fails, wait 8, overdue", "RUNNING",
        f"{SENT} f2.0~2"),
    Row("ever again", TWO, f"{ENDED}{', f2.0 fails, wait 400, overdue' * 9}", "RUNNING",
        f"{SENT} {' '.join(f'f2.0~{epoch}' for epoch in range(2, 11))}"),
    Row("run again when its process is lost", TWO, f"{ENDED}, f2.0 void", "RUNNING",
        f"{SENT} f2.0~2"),
    Row("lost too often", TWO, f"{ENDED}, f2.1 ok, f2.0 void, f2.0 void", "STUCK",
        f"{SENT} f2.0~2"),
    Row("stuck when the others have ended", TWO, f"{ENDED}, f2.0 fails final, f2.1 ok", "STUCK",
        SENT),
    Row("not before that", TWO, f"{ENDED}, f2.0 fails final", "RUNNING", SENT),
    Row("an operator's retry", TWO, f"{ENDED}, f2.0 fails final, f2.1 ok, retry, f2.0 ok",
        "COMPLETED", f"{SENT} f2.0~2"),
    Row("an operator's skip", TWO, f"{ENDED}, f2.0 fails final, f2.1 ok, skip", "COMPLETED", SENT),
    Row("an input that is missing is corrected", tree("a+x"), "f0 ok, retry x=1, f1.0 ok",
        "COMPLETED", "f0~1 f1.0~1"),
    Row("of a step that an operator skipped", tree("a* b-&"), "f0 ok, f1 fails final, skip",
        "RUNNING", "f0~1 f1~1 f2.1~1"),
    # What else may happen.
    Row("a report that comes twice", TWO, f"{ENDED}, f2.0 ok, f2.0~1# ok", "RUNNING", SENT),
    Row("a report without the claim", TWO, f"{ENDED}, f2.0 void, f2.0~1# ok, f2.1 ok", "RUNNING",
        f"{SENT} f2.0~2"),
    Row("a lost message", TWO, f"{ENDED}, f2.1 ok, wait 5, overdue missing", "RUNNING",
        f"{SENT} f2.0~1"),
    Row("a pause before it", TWO, "f0 ok, f1 claimed, pause, f1 ok", "PAUSED", "f0~1 f1~1"),
    Row("its end", TWO, "f0 ok, f1 claimed, pause, f1 ok, resume", "RUNNING", SENT),
    Row("a cancel in that pause", TWO, "f0 ok, f1 claimed, pause, f1 ok, cancel", "COMPENSATING",
        "f0~1 f1~1 c1~2"),
    Row("a cancel under the last step", TWO, "f0 ok, f1 claimed, cancel, f1 ok", "COMPENSATING",
        "f0~1 f1~1 c1~2"),
    Row("a cancel of sent ones is refused", TWO, f"{ENDED}, cancel, f2.0 ok, f2.1 ok", "COMPLETED",
        SENT),
]  # fmt: skip


def played(plan: Plan, script: str, values: Mapping[str, Any] = ITEMS) -> Scenario:
    return Scenario.of(plan, values=values).play(f"start, {script}")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_row(row: Row) -> None:
    scenario = played(row.plan, row.script, row.values)
    assert " ".join(scenario.sent) == row.sent
    assert scenario.execution.status.value == row.status


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_an_export_is_read_back(row: Row) -> None:
    execution = played(row.plan, row.script, row.values).execution
    assert SagaExecution.from_raw(execution.raw) == execution


def test_a_deadline_that_passes_under_the_last_step_rolls_nothing_back() -> None:
    scenario = Scenario.of(tree("a&"), deadline=5).play("start, f0 claimed, wait 60, f0 ok")
    assert scenario.sent == ["f0~1", "f1.0~1"]


def test_a_deadline_that_passes_under_them_alerts() -> None:
    scenario = Scenario.of(tree("a&"), deadline=5).play("start, f0 ok, wait 60, overdue")
    assert [type(each).__name__ for each in scenario.commands] == ["Alert"]
    assert scenario.execution.status == "RUNNING"


class TestInputs:
    """They are those of a compensation."""

    @pytest.mark.parametrize(
        ("plan", "script", "path", "found"),
        [
            (tree("a+k"), "f0 ok", (1, 0), "old"),
            (tree("a+k", "b"), "f0 ok k=own, f1 ok k=new", (2, 0), "own"),
            (tree("a+k", "b"), "f0 ok, f1 ok k=new", (2, 0), "old"),
            (tree("a*+k", "b-"), "f0 ok, f1 ok k=new", (2, 0), "old"),
            (tree(each("a+item")), "f0.0 ok, f0.1 ok", (1, 0, 1), 2),
            (tree(par("a+k", "b")), "f0.0 ok, f0.1 ok k=new", (1, 0, 0), "old"),
            (tree(saga("a+x", inputs={"x": "k"}, returns={}), "b"), "f0.0 ok, f1 ok k=new",
             (2, 0, 0), "old"),
        ],
        ids=str,
    )  # fmt: skip
    def test_row(self, plan: Plan, script: str, path: tuple[int, ...], found: object) -> None:
        execution = played(plan, script, {**ITEMS, "k": "old"}).execution
        step = execution.plan.step(path)
        (key,) = (item.param for item in step.action.inputs)
        assert execution.ref(path) is not None
        assert execution.inputs_of(path, execution.direction)[key] == found


def test_the_plan_shows_them_with_the_paths_of_their_steps() -> None:
    text = str(tree(par("a&", "b"), each("d&")))
    assert text.splitlines()[-3:] == [
        "  2      commit: all at once",
        "  2.0.0  a.commit: commit.a",
        "  2.1.0  d.commit: commit.d",
    ]
