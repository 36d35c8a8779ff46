"""The state machine against its table, ``transitions.txt``; and executions in a store's form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from celery_saga.core import checkpoint
from celery_saga.core.context.codec import JSON
from celery_saga.core.context.data import Values
from celery_saga.core.context.lazy import UNREAD
from celery_saga.core.decide import decide
from celery_saga.core.decide.operators import KEPT_REQUESTS
from celery_saga.core.events import PauseRequested, ResultStored
from celery_saga.core.execution import Direction, Note, SagaExecution, SagaStatus, from_parts
from celery_saga.core.plan import Plan
from celery_saga.errors import UnsupportedCheckpoint
from tests.core.scenario import Scenario, spoken

#: Step b ran twice, as epoch 1 (void) and epoch 2; epoch 3 is its compensation.
ZOMBIE = "start, f0 ok, f1 void, f1 ok, f2 fails"


@dataclass(frozen=True)
class Row:
    """One row of the table; see there."""

    id: str
    shape: str
    script: str
    status: str
    steps: str
    says: str
    where: str
    limits: dict[str, Any] = field(default_factory=dict)

    def play(self) -> Scenario:
        """The saga after all of the script."""
        return Scenario.of(self.shape, **self.limits).play(self.script)


_SETTING = re.compile(r"(?P<shape>[^:[]+?)(?: \[(?P<limits>[^]]*)\])?: (?P<script>.*)")
_EXPECTED = re.compile(r"(?P<status>\w+): (?P<steps>[\w ]+) -> (?P<says>.*)")


def read_table(path: Path) -> Iterator[Row]:
    """The rows below the table's explanation."""
    _, _, table = path.read_text().partition("\n== ")
    for section in table.split("\n== "):
        part, _, rows = section.partition("\n\n")
        for block in rows.strip().split("\n\n"):
            name, setting, expected, *where = block.replace("\n        ", " ").split("\n")
            yield _row(f"{part}: {name}", setting.strip(), expected.strip(), " ".join(where))


def _row(title: str, setting: str, expected: str, where: str) -> Row:
    given, then = _SETTING.fullmatch(setting), _EXPECTED.fullmatch(expected)
    assert given, setting
    assert then, expected
    limits = dict(limit.split("=") for limit in (given["limits"] or "").split())
    return Row(
        title.replace(" ", "-"),
        given["shape"],
        given["script"],
        then["status"],
        then["steps"],
        then["says"],
        where,
        {name: int(value) for name, value in limits.items()},
    )


TABLE = list(read_table(Path(__file__).with_name("transitions.txt")))

#: A script's last word, if it is a report of a task.
_REPORT = re.compile(r"[fc]\d\S* (ok|fails|killed|released|void|dead|revoked)\b[^,]*")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
def test_table(row: Row) -> None:
    scenario = row.play()
    execution = scenario.execution
    assert execution.status.value == row.status
    assert " ".join(step.status.value for step in execution.steps) == row.steps
    assert spoken(scenario) == row.says
    for path, found, expected in _looked_up(scenario, row.where):
        assert found == expected, path


def _looked_up(scenario: Scenario, where: str) -> Iterator[tuple[str, object, object]]:
    for part in where.split():
        path, _, expected = part.partition("=")
        found: Any = scenario.execution
        for name in path.split("."):
            if isinstance(found, SagaExecution) and name.isdigit():
                found = found.steps[int(name)]
            elif isinstance(found, tuple):
                found = found[int(name)]
            else:
                found = found[name] if isinstance(found, Mapping) else getattr(found, name)
        if expected.startswith("+"):
            yield path, found, scenario.now + float(expected)
        else:
            found = dict(found) if isinstance(found, Mapping) else found
            yield path, str(found).replace(": ", ":"), expected.replace("+", " ")


@pytest.mark.parametrize(
    "row",
    [row for row in TABLE if _REPORT.fullmatch(row.script.split(", ")[-1])],
    ids=lambda row: row.id,
)
def test_a_second_copy_of_the_last_report_changes_nothing(row: Row) -> None:
    scenario = row.play()
    execution = scenario.execution
    scenario.decide(scenario.events[-1])
    assert spoken(scenario) == "same"
    assert scenario.execution is execution


#: A script's last word, if it is what an operator asks for.
_REQUEST = re.compile(r"(cancel|pause|resume|retry|skip|resolve)\b[^,]*")


@pytest.mark.parametrize(
    "row",
    [row for row in TABLE if _REQUEST.fullmatch(row.script.split(", ")[-1])],
    ids=lambda row: row.id,
)
def test_a_request_whose_answer_was_lost_is_done_once_and_not_refused(row: Row) -> None:
    scenario = row.play()
    execution, refusal = scenario.execution, scenario.refusal
    scenario.decide(scenario.events[-1])
    assert scenario.execution is execution
    assert scenario.refusal == refusal


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
def test_every_execution_comes_back_from_its_checkpoint(row: Row) -> None:
    for execution in row.play().seen:
        assert through_checkpoint(execution) == execution


def through_checkpoint(execution: SagaExecution) -> SagaExecution:
    """The execution as a store would give it back: every part through JSON text."""
    steps = [JSON.dumps(checkpoint.record_to_dict(step)) for step in execution.steps]
    notes = [JSON.dumps(checkpoint.record_to_dict(note)) for note in execution.history]
    return from_parts(
        execution.saga_id,
        JSON.loads(JSON.dumps(checkpoint.head_to_dict(execution))),
        plan=Plan.from_text(execution.plan.text),
        values=Values(texts=Values(execution.values).texts()),
        steps=tuple(checkpoint.step_from_dict(JSON.loads(text)) for text in steps),
        history=tuple(Note(**JSON.loads(text)) for text in notes),
        revision=execution.revision,
    )


def test_the_table_was_read() -> None:
    """A slip in the table's form must not make rows vanish."""
    rows = Path(__file__).with_name("transitions.txt").read_text().count(" -> ") - 1
    assert len(TABLE) == len({row.id for row in TABLE}) == rows > 200


def test_a_checkpoint_of_a_newer_version_is_refused() -> None:
    execution = Scenario.of("a").play("start").execution
    head = {**checkpoint.head_to_dict(execution), "version": checkpoint.SCHEMA_VERSION + 1}
    with pytest.raises(UnsupportedCheckpoint, match="upgrade celery_saga"):
        from_parts("s", head, plan=execution.plan, values={}, steps=(), history=(), revision=1)


def test_a_checkpoint_from_before_there_were_results_is_read() -> None:
    execution = Scenario.of("a").play("start").execution
    head = json.loads(
        '{"version": 1, "status": "RUNNING", "due_at": 1005.0, "created_at": 1000.0, '
        '"updated_at": 1001.0, "active": ["f0~1"]}'
    )
    steps, plan = execution.steps, execution.plan
    old = from_parts("s", head, plan=plan, values={"input": 1}, steps=steps, history=(), revision=0)
    assert old == execution
    assert (old.wants_result, old.result_pending, old.callbacks) == (False, False, None)


def test_a_refused_request_leaves_the_execution_as_it_is() -> None:
    scenario = Scenario.of("a").play("start")
    before = scenario.execution
    scenario.play("skip")
    assert scenario.execution is before
    assert scenario.commands == ()


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
def test_the_history_is_not_read_to_decide(row: Row) -> None:
    whole, unread = row.play(), Scenario.of(row.shape, **row.limits)
    unread.execution = replace(unread.execution, history=UNREAD)
    unread.play(row.script)

    history: Any = unread.execution.history
    assert history.appended == whole.execution.history
    assert replace(unread.execution, history=whole.execution.history) == whole.execution
    assert (unread.commands, unread.refusal) == (whole.commands, whole.refusal)


def test_a_request_whose_answer_was_lost_is_done_once_also_after_other_requests() -> None:
    scenario = Scenario.of("a b").play("start, pause, resume, pause, resume")
    execution, (_, paused, *_) = scenario.execution, scenario.events
    scenario.decide(paused)
    assert isinstance(paused, PauseRequested)
    assert (scenario.execution is execution, scenario.refusal) == (True, "")


def test_no_more_than_a_few_requests_are_kept() -> None:
    scenario = Scenario.of("a b").play("start" + ", pause, resume" * KEPT_REQUESTS)
    kept = scenario.execution.last_requests
    assert [each.verb for each in kept] == ["pause", "resume"] * (KEPT_REQUESTS // 2)
    assert kept[-1].at == scenario.now


def test_an_end_is_published_of_a_saga_whose_history_was_not_read() -> None:
    """A worker has read no more than its own step, and stores the result with the last save."""
    execution = replace(Scenario.of("a", result=1).play("start, f0 ok").execution, history=UNREAD)

    published = decide(execution, ResultStored(1_010.0, SagaStatus.COMPLETED)).execution

    assert (execution.result_pending, published.result_pending) == (True, False)


def test_a_transition_notes_its_time() -> None:
    scenario = Scenario.of("a b").play("start, wait 60, f0 ok")
    assert scenario.execution.updated_at == scenario.now


def test_the_idempotency_key_outlives_redeliveries_and_changes_with_a_new_compensation_round() -> (
    None
):
    scenario = Scenario.of("a b c")
    forward = scenario.execution.idempotency_key(1, Direction.FORWARD)
    scenario.play(ZOMBIE)
    assert scenario.execution.idempotency_key(1, Direction.FORWARD) == forward == "s/b/f/0"
    assert scenario.execution.idempotency_key(1, Direction.COMPENSATION) == "s/b/c/0"
    scenario.play("c1 ok, f1~1 ok")
    assert scenario.execution.idempotency_key(1, Direction.COMPENSATION) == "s/b/c/1"


def test_a_long_saga_of_which_no_compensation_has_its_input_ends_stuck() -> None:
    length = 800
    scenario = Scenario.of(" ".join(["a>k"] * length))
    scenario.play("start")
    for index in range(length - 1):
        scenario.play(f"f{index} ok")
    scenario.play(f"f{length - 1} fails")
    assert spoken(scenario) == "notify STUCK"
    failed = [step for step in scenario.execution.steps if step.compensation_error is not None]
    assert len(failed) == length - 1
