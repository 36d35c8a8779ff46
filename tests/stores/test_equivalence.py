"""What a worker reads of a saga is enough: the same history ends the same on every store.

The Redis store answers a claim with no more than a step that succeeds needs, and the rest is read
when something else happens. The memory store always has everything.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import pytest
import redis

from celery_saga.core import events
from celery_saga.core.context.data import Values
from celery_saga.core.execution import (
    TERMINAL,
    Claim,
    Direction,
    Failure,
    SagaExecution,
    StepRef,
)
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.plan import Call, Input, Plan, PlanStep
from celery_saga.core.ports import Store
from celery_saga.errors import SagaError
from celery_saga.stores.memory import MemoryStore
from celery_saga.stores.redis import RedisStore
from celery_saga.testing.embedded import EmbeddedValkey

SEEDS, EVENTS = 150, 40


class Outlet:
    """A publisher that records what it was asked to send."""

    details = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, Mapping[str, Any]]] = []
        self.unavailable = False

    def first_message(self, execution: SagaExecution) -> tuple[SagaExecution, Mapping[str, Any]]:
        return execution, self.message(
            execution, events.Dispatch(StepRef((0,), Direction.FORWARD, 1))
        )

    def message(self, execution: SagaExecution, command: events.Dispatch) -> Mapping[str, Any]:
        step = execution.plan.steps[command.ref.path[0]]
        call = step.action if command.ref.direction is Direction.FORWARD else step.compensation
        assert call is not None
        whole = dict(execution.values) if call.style == "context" else {}
        seen = execution.inputs_of(command.ref.path[0], command.ref.direction)
        given = dict(Values(texts=call.texts(seen)))
        return {"ref": str(command.ref), "with": given | whole}

    def publish(self, message: Mapping[str, Any]) -> None:
        self.sent.append((message["ref"], message["with"]))

    def encode(self, message: Any) -> None:
        return None

    def undelivered(self, task_id: str) -> None: ...

    def reconsider(self) -> None:
        raise AssertionError("there are no envelopes")

    def observe(self, transition: events.Transition) -> None:
        """What was read in part must report the same transitions."""
        kind, step, attempt = transition.subject, transition.step, transition.attempt
        self.sent.append((f"{kind} {step} {attempt} {transition.before} {transition.after}", {}))


class Ends:
    """Stores results where the outlet keeps its messages."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def encode(self, execution: SagaExecution) -> None:
        return None

    def publish(self, execution: SagaExecution) -> None:
        self._outlet.sent.append((execution.status.value, dict(execution.values)))
        if self._outlet.unavailable:
            raise ConnectionError("the result backend is unavailable")


def random_plan(dice: random.Random) -> Plan:
    count = dice.randint(1, 5)
    pivot = dice.choice([None, *range(count)])
    keys = [("k0",), ("k1",), ("deep", "er"), ("missing",)]
    steps = []
    for index in range(count):
        inputs = tuple(
            Input(f"p{n}", path, required=path != ("missing",))
            for n, path in enumerate(dice.sample(keys, dice.randint(0, 3)))
        )
        style = dice.choice(["inputs", "inputs", "context"])
        action = Call(
            f"do{index}", style, () if style == "context" else inputs, rerun=dice.random() < 0.7
        )
        compensation = Call(f"compensate{index}", inputs=inputs, max_attempts=2)
        needs_compensation = (pivot is None or index < pivot) and dice.random() < 0.8
        steps.append(
            PlanStep(
                f"s{index}", action, compensation if needs_compensation else None, index == pivot
            )
        )
    return Plan("equal", tuple(steps), max_redeliveries=1)


def plain(execution: SagaExecution | None) -> Any:
    """All that does not depend on clocks and on who claimed."""
    if execution is None:
        return None
    left_out = {"claim", "retries", "expected_at", "not_before", "started_at", "ended_at", "log"}
    steps = [
        {each.name: getattr(step, each.name) for each in fields(step) if each.name not in left_out}
        # The retry count is kept for as long as a message is out.
        | {"log": [(each.number, each.direction, each.outcome, each.error) for each in step.log]}
        | {"claimed": bool(step.claim), "retries": execution.ref(index) and step.retries}
        for index, step in enumerate(execution.steps)
    ]
    notes = [(note.what, note.by, note.detail) for note in execution.history]
    return (
        list(execution.values.items()), steps, execution.status, execution.direction,
        execution.active, execution.journal, execution.revision,
        execution.rollback_reason, execution.error, notes,
        execution.wants_result, execution.result_pending, execution.callbacks,
        execution.stuck_count, [each[1:] for each in execution.last_requests],
        execution.resolved_at is not None,
    )  # fmt: skip


class Twin:
    """One store with its orchestrator, and the claims that were granted on it."""

    def __init__(self, store: Store) -> None:
        self.outlet = Outlet()
        self.orchestrator = Orchestrator(
            store, self.outlet, Ends(self.outlet), store_timeout=0, observer=self.outlet
        )
        self.store = store
        self.read: dict[str, SagaExecution] = {}

    def claim(self, saga_id: str, ref: StepRef, token: str, retries: int, plan: Plan) -> bool:
        claim = Claim(token, f"instance-{token[-1]}", retries)
        answer = self.orchestrator.claim(saga_id, ref, claim, plan.hash)
        if isinstance(answer, SagaExecution):
            self.read[token] = answer
        return isinstance(answer, SagaExecution)

    def apply(self, saga_id: str, event: Any) -> str:
        try:
            self.orchestrator.apply(saga_id, event, self.read.get(getattr(event, "token", "")))
        except SagaError as error:
            return type(error).__name__
        return "applied"


def random_event(dice: random.Random, refs: list[StepRef], tokens: list[str]) -> Any:
    ref, token = dice.choice(refs), dice.choice([*tokens, "unknown"])
    at = 2e9 + dice.random()
    failure = Failure("Boom", "bang", f"s{ref.path[0]}")
    update = {dice.choice(["k0", "k1", "new", "deep"]): dice.choice([1, "x", {"er": 2}])}
    return dice.choice(
        [
            *[events.StepSucceeded(at, ref, token, update, dice.choice([(), ("k1",)]))] * 6,
            events.StepFailed(at, ref, failure, token),
            events.StepFailed(at, ref, failure, token, effect=True),
            events.StepFailed(at, ref, failure, token, final=True),
            events.StepReleased(at, ref, token, 1, at),
            events.ClaimVoided(at, ref, token),
            events.StepRevoked(at, ref, failure, "instance-1"),
            events.Overdue(at, dice.choice(list(events.MessageState))),
            events.CancelRequested(at, "me"),
            events.PauseRequested(at, "me"),
            events.ResumeRequested(at, "me"),
            events.RetryRequested(at, "me", {"missing": 1}),
            events.SkipRequested(at, "me"),
            events.ResolveRequested(at, dice.choice(sorted(TERMINAL)), "me"),
        ]
    )


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with EmbeddedValkey() as server, redis.Redis.from_url(server.url(0)) as client:
        yield client


def test_histories_end_the_same_on_every_store(client: redis.Redis) -> None:
    outcomes = set()
    for seed in range(SEEDS):
        dice = random.Random(seed)
        plan, saga_id = random_plan(dice), f"equal-{seed}"
        twins = [Twin(MemoryStore()), Twin(RedisStore(client))]
        wants: dict[str, Any] = {}
        if seed % 2:
            wants = {"wants_result": True, "callbacks": {"chain": [seed]}}
        start = {"k1": 1, "k0": [1, {"a": None}], "deep": {"er": "value"}, "big": "x" * 1000}
        for twin in twins:
            twin.orchestrator.start(plan, saga_id, start, token="start", **wants)
        tokens: list[str] = []
        for number in range(EVENTS):
            execution = twins[0].orchestrator.load(saga_id)
            now = execution.first_active
            refs = [ref for ref in (now,) if ref] * 3 + [StepRef((0,), Direction.FORWARD, 1)]
            if now and dice.random() < 0.4:
                token, retries = f"token-{number}", dice.choice([0, 0, 1])
                answers = {twin.claim(saga_id, now, token, retries, plan) for twin in twins}
                assert len(answers) == 1
                tokens.append(token)
            event = random_event(dice, refs, tokens[-2:])
            unavailable = dice.random() < 0.5
            for twin in twins:
                twin.outlet.unavailable = unavailable
            answers = {twin.apply(saga_id, event) for twin in twins}
            states = [plain(twin.store.load(saga_id)) for twin in twins]
            assert len(answers) == 1, (seed, number, event, answers)
            assert states[0] == states[1], (seed, number, event)
            assert twins[0].outlet.sent == twins[1].outlet.sent, (seed, number, event)
        outcomes.add(twins[0].orchestrator.load(saga_id).status)
    assert len(outcomes) >= 4, "the seeds reach too few statuses"
