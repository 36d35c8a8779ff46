"""An execution as plain data: it comes back equal, whatever happened to it, or is refused."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_saga import SagaExecution, SagaStatus, UnsupportedCheckpoint
from celery_saga.core.checkpoint import SCHEMA_VERSION
from celery_saga.core.execution import Direction, StepRef
from celery_saga.core.plan import Call, Input, Plan, PlanStep
from celery_saga.stores.memory import MemoryStore
from tests.core.test_codec import assert_same, scalars, text
from tests.stores.test_equivalence import random_event, random_plan
from tests.stores.twins import Twin


def through_json(execution: SagaExecution) -> SagaExecution:
    """Out as JSON text of Python's own encoder, and in again."""
    return SagaExecution.from_raw(json.loads(json.dumps(execution.raw, allow_nan=False)))


def random_history(seed: int, length: int = 40) -> Iterator[SagaExecution]:
    """What a saga looks like after each of many random events."""
    dice = random.Random(seed)
    plan, saga_id, twin = random_plan(dice), f"raw-{seed}", Twin(MemoryStore())
    start = {"k1": 1, "k0": [1, {"a": None}], "deep": {"er": "value"}}
    twin.orchestrator.start(plan, saga_id, start, token="start")
    tokens: list[str] = []
    for number in range(length):
        execution = twin.orchestrator.load(saga_id)
        yield execution
        now = execution.first_active
        refs = [ref for ref in (now,) if ref] * 3 + [StepRef((0,), Direction.FORWARD, 1)]
        if now and dice.random() < 0.4:
            twin.claim(saga_id, now, f"token-{number}", dice.choice([0, 0, 1]), plan)
            tokens.append(f"token-{number}")
        twin.apply(saga_id, random_event(dice, refs, tokens[-2:]))


def test_every_execution_of_random_histories_comes_back_equal() -> None:
    seen = set()
    for seed in range(120):
        for execution in random_history(seed):
            back = through_json(execution)
            assert back == execution, (seed, execution)
            assert list(back.values) == list(execution.values)
            assert (back.plan.hash, back.raw) == (execution.plan.hash, execution.raw)
            claimed = any(step.claim for step in execution.steps)
            asked, resolved = bool(execution.last_requests), execution.resolved_at is not None
            seen.add((execution.status, claimed, bool(execution.history), asked, resolved))
    statuses, *others = zip(*seen, strict=True)
    assert set(statuses) == set(SagaStatus) - {SagaStatus.CREATED}
    assert all(set(each) == {True, False} for each in others)


trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)
)


def execution_with(values: dict[str, Any], const: Any = None) -> SagaExecution:
    call = Call("tasks.do", inputs=(Input("fixed", const=const), Input("x", ("x", 0))))
    return SagaExecution.create("raw", Plan("raw", (PlanStep("a", call),)), values, at=1.5)


@given(st.dictionaries(text, trees, max_size=4), trees)
def test_every_value_of_a_context_and_every_constant_comes_back(
    values: dict[str, Any], const: Any
) -> None:
    if values.keys() >= {"__type__", "__value__"}:
        return
    back = through_json(execution_with(values, const))
    assert_same(dict(back.values), values)
    assert_same(back.plan.steps[0].action.inputs[0].const, const)


class TestForm:
    def test_it_is_what_the_documentation_shows(self) -> None:
        raw = execution_with({"order_id": 7}).raw
        assert raw["version"] == SCHEMA_VERSION
        assert (raw["saga_id"], raw["context"], raw["revision"]) == ("raw", {"order_id": 7}, 0)
        assert raw["steps"] == [{"name": "a"}]
        assert raw["plan"]["saga"] == "raw"

    def test_changing_it_changes_nothing(self) -> None:
        execution = execution_with({"lines": [1]})
        execution.raw["context"]["lines"].append(2)
        assert execution.values == {"lines": [1]}


class TestRefused:
    def test_a_newer_version(self) -> None:
        raw = {**execution_with({}).raw, "version": SCHEMA_VERSION + 1}
        with pytest.raises(UnsupportedCheckpoint, match=r"'raw'.*upgrade celery_saga"):
            SagaExecution.from_raw(raw)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda raw: None,
            lambda raw: [],
            lambda raw: {},
            lambda raw: {key: raw[key] for key in raw if key != "version"},
            lambda raw: {**raw, "version": "1"},
            lambda raw: {key: raw[key] for key in raw if key != "plan"},
            lambda raw: {key: raw[key] for key in raw if key != "steps"},
            lambda raw: {**raw, "plan": {"saga": "x"}},
            lambda raw: {**raw, "plan": "import os"},
            lambda raw: {**raw, "context": [1]},
            lambda raw: {**raw, "steps": [{"name": "a", "status": "GREAT"}]},
            lambda raw: {**raw, "steps": [{"name": "a", "mood": "good"}]},
            lambda raw: {**raw, "steps": [{"name": "a"}, {"name": "b"}]},
            lambda raw: {**raw, "history": [{"who": "me"}]},
            lambda raw: {**raw, "status": "GREAT"},
            lambda raw: {**raw, "mood": "good"},
            lambda raw: {**raw, "saga_id": 7},
            lambda raw: {**raw, "active": ["f1~1"]},
            lambda raw: {**raw, "active": ["f1"]},
            lambda raw: {**raw, "journal": "0-1"},
            lambda raw: {**raw, "journal": "all"},
        ],
    )
    def test_what_is_not_an_export(self, damage: Any) -> None:
        with pytest.raises(ValueError, match=r"^SagaExecution\.from_raw: expected what"):
            SagaExecution.from_raw(damage(execution_with({"x": [1]}).raw))


class TestNamesOfTheOriginal:
    def test_uuid(self) -> None:
        plan, number = execution_with({}).plan, uuid.uuid4()
        assert SagaExecution.create(str(number), plan, {}, at=0.0).uuid == number
        assert SagaExecution.create("order-7", plan, {}, at=0.0).uuid == "order-7"
        # A UUID of which the text would be another id.
        assert SagaExecution.create(number.hex, plan, {}, at=0.0).uuid == number.hex

    def test_statuses(self) -> None:
        assert SagaStatus.Created is SagaStatus.CREATED
        assert SagaStatus.Running is SagaStatus.RUNNING
        assert SagaStatus.Paused is SagaStatus.PAUSED
        assert SagaStatus.Finished is SagaStatus.COMPLETED
        assert len(SagaStatus) == 7

    @pytest.mark.parametrize("status", SagaStatus)
    def test_errored_is_two_statuses(self, status: SagaStatus) -> None:
        errored = status in (SagaStatus.COMPENSATED, SagaStatus.STUCK)
        assert status.Errored is errored
        assert (status == SagaStatus.Errored) is errored
        assert (SagaStatus.Errored == status) is errored
        assert (status != SagaStatus.Errored) is not errored
        assert SagaStatus.Errored != "COMPENSATED"
