"""What a worker reads of a saga is enough: the same history ends the same on every store.

The Redis store answers a claim with no more than a step that succeeds needs, and the rest is read
when something else happens. The memory store always has everything.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import redis

from celery_saga.core import events
from celery_saga.core.execution import (
    TERMINAL,
    Direction,
    Failure,
    SagaExecution,
    StepRef,
)
from celery_saga.core.plan import (
    Call,
    Case,
    Choice,
    Commits,
    ForEach,
    Input,
    NestedSaga,
    Node,
    Parallel,
    Plan,
    PlanStep,
    Wait,
)
from celery_saga.stores.memory import MemoryStore
from celery_saga.stores.redis import RedisStore
from celery_saga.testing.embedded import EmbeddedValkey
from tests.stores.twins import Twin, plain

SEEDS, TREES, EVENTS = 150, 100, 40


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


def random_tree(dice: random.Random) -> Plan:
    names = count()

    def named(kind: str) -> str:
        return f"{kind}{next(names)}"

    def step() -> PlanStep:
        name, keys = named("s"), ["k0", "k1", "new", "item"]
        wanted = dice.sample(keys, dice.randint(0, 2))
        inputs = tuple(Input(key, (key,), required=dice.random() < 0.1) for key in wanted)
        style = dice.choice(["inputs", "inputs", "inputs", "context"])
        action = Call(f"do.{name}", style, () if style == "context" else inputs)
        compensation = Call(f"compensate.{name}", inputs=inputs, max_attempts=2)
        pauses = dice.choice(["compensate", "compensate", "compensate", "pause"])
        commit = Call(f"commit.{name}", inputs=inputs, returns=False, max_attempts=None)
        return PlanStep(
            name,
            action,
            compensation if dice.random() < 0.8 else None,
            on_exhausted=pauses,
            commit=commit if dice.random() < 0.2 else None,
        )

    def node(depth: int) -> Node:
        kind = dice.choice(["step"] * 3 + ["seq", "par", "par", "choice", "each", "wait"])
        if kind == "step" or depth == 0:
            return step()
        inside = tuple(node(depth - 1) for _ in range(dice.randint(1, 3)))
        together, parallel = dice.random() < 0.5, dice.random() < 0.5
        if kind == "seq":
            inputs = dice.choice([None, None, {"k0": "k1", "item": "k0"}])
            return NestedSaga(named("n"), inside, inputs, dice.choice([None, {"k1": "k0"}]))
        if kind == "par":
            return Parallel(named("p"), inside, together)
        if kind == "choice":
            cases = tuple(Case(Call(f"if.{i}"), each) for i, each in enumerate(inside))
            return Choice(named("c"), cases, dice.choice([None, step()]))
        if kind == "each":
            body = NestedSaga(named("n"), inside)
            returns = dice.choice([None, "k1"])
            return ForEach(named("e"), ("items",), "item", body, parallel, returns, together)
        return Wait(named("w"), "approved", dice.choice([None, 1.0]), inside[0], "k0")

    steps = [node(2) for _ in range(dice.randint(1, 4))]
    if dice.random() < 0.3:
        steps.insert(dice.randint(0, len(steps)), PlanStep("pivot", Call("do.pivot"), pivot=True))
    on_failure = dice.choice(["continue", "stop"])
    plan = Plan("equal", tuple(steps), max_redeliveries=1, on_compensation_failure=on_failure)
    return replace(plan, steps=(*plan.steps, Commits())) if plan.committing else plan


def random_event(dice: random.Random, refs: list[StepRef], tokens: list[str]) -> Any:
    """Something that may be heard of a saga; much of it is out of place."""
    ref, token = dice.choice(refs), dice.choice([*tokens, "unknown"])
    at = 2e9 + dice.random()
    failure = Failure("Boom", "bang", f"s{ref.path[0]}")
    update = {dice.choice(["k0", "k1", "new", "deep"]): dice.choice([1, "x", {"er": 2}])}
    signal = dice.choice(["approved", "approved[0]", "approved[1]"])
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
            events.SignalReceived(at, signal, '"yes"', f"{dice.random()}", "me"),
            events.ResolveRequested(at, dice.choice(sorted(TERMINAL)), "me"),
        ]
    )


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with EmbeddedValkey() as server, redis.Redis.from_url(server.url(0)) as client:
        yield client


class History:
    """One saga on two stores, to which the same happens."""

    def __init__(self, client: redis.Redis, saga_id: str, plan: Plan, **wants: Any) -> None:
        self.saga_id, self.plan = saga_id, plan
        self.twins = [Twin(MemoryStore()), Twin(RedisStore(client))]
        start = {
            "k1": 1, "k0": [1, {"a": None}], "deep": {"er": "value"}, "big": "x" * 1000,
            "items": ["a", "b"],
        }  # fmt: skip
        for twin in self.twins:
            twin.orchestrator.start(plan, saga_id, start, token="start", **wants)

    @property
    def now(self) -> SagaExecution:
        return self.twins[0].orchestrator.load(self.saga_id)

    def claim(self, ref: StepRef, token: str, retries: int) -> None:
        answers = {twin.claim(self.saga_id, ref, token, retries, self.plan) for twin in self.twins}
        assert len(answers) == 1

    def apply(self, event: Any, unavailable: bool) -> None:
        for twin in self.twins:
            twin.outlet.unavailable = unavailable
        answers = {twin.apply(self.saga_id, event) for twin in self.twins}
        states = [plain(twin.store.load(self.saga_id)) for twin in self.twins]
        assert len(answers) == 1, (event, answers)
        assert states[0] == states[1], event
        assert self.twins[0].outlet.sent == self.twins[1].outlet.sent, event


def test_histories_end_the_same_on_every_store(client: redis.Redis) -> None:
    outcomes = set()
    for seed in range(SEEDS):
        dice = random.Random(seed)
        wants = {"wants_result": True, "callbacks": {"chain": [seed]}} if seed % 2 else {}
        history = History(client, f"equal-{seed}", random_plan(dice), **wants)
        tokens: list[str] = []
        for number in range(EVENTS):
            now = history.now.first_active
            refs = [ref for ref in (now,) if ref] * 3 + [StepRef((0,), Direction.FORWARD, 1)]
            if now and dice.random() < 0.4:
                tokens.append(f"token-{number}")
                history.claim(now, tokens[-1], dice.choice([0, 0, 1]))
            event = random_event(dice, refs, tokens[-2:])
            history.apply(event, unavailable=dice.random() < 0.5)
        outcomes.add(history.now.status)
    assert len(outcomes) >= 4, "the seeds reach too few statuses"


def heard_of_a_task(dice: random.Random, plan: Plan, ref: StepRef, token: str) -> Any:
    """A good answer of a task: a condition's is true or false."""
    at, forward = 2e9 + dice.random(), ref.direction is Direction.FORWARD
    if isinstance(plan.at(ref.path), Choice):
        return events.StepSucceeded(at, ref, token, answer=dice.random() < 0.5)
    key = dice.choice(["k0", "k1", "new", f"own{ref.path}"])
    update, remove = {key: dice.choice([1, "x", None])}, dice.choice([(), (), ("k1",)])
    own = {"item": "own"} if forward and dice.random() < 0.2 else {}
    return events.StepSucceeded(at, ref, token, update, remove, own)


def test_histories_of_trees_end_the_same_on_every_store(client: redis.Redis) -> None:
    outcomes = set()
    for seed in range(TREES):
        dice = random.Random(seed)
        plan = random_tree(dice)
        history = History(client, f"tree-{seed}", plan)
        tokens: dict[StepRef, str] = {}
        for number in range(EVENTS):
            now = history.now
            unclaimed = [ref for ref in now.active if now.steps[ref.path].claim is None]
            if unclaimed and dice.random() < 0.8:
                ref = dice.choice(unclaimed)
                tokens[ref] = f"token-{number}"
                history.claim(ref, tokens[ref], 0)
            running = [ref for ref in now.active if ref in tokens]
            if running and dice.random() < 0.7:
                ref = dice.choice(running)
                event = heard_of_a_task(dice, plan, ref, tokens[ref])
            else:
                refs = [*now.active, *tokens][-4:]
                steps = [ref for ref in refs if not isinstance(plan.at(ref.path), Choice)]
                ref = dice.choice(steps or [StepRef(plan.first, Direction.FORWARD, 1)])
                event = random_event(dice, [ref], [tokens.get(ref, "none")])
            history.apply(event, unavailable=False)
        outcomes.add(history.now.status)
    assert len(outcomes) >= 4, "the seeds reach too few statuses"
