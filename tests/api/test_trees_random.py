"""Random definitions, run eagerly: what ran is compensated in reverse order, or committed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_saga import LocalSagaStep, Saga, SagaContext, SagaManager, saga_info
from celery_saga.core.plan import Plan, PlanStep
from celery_saga.stores.memory import MemoryStore

SEEDS = 60


class Bench:
    """An app whose steps note that they run, and fail where the context says so."""

    def __init__(self) -> None:
        self.app = app = Celery("random", broker="memory://", set_as_current=False)
        app.conf.update(task_always_eager=True, task_acks_late=True)
        SagaManager(app, storage=MemoryStore())
        self.ran: list[tuple[str, str]] = []
        ran = self.ran

        @app.task(name="act", shared=False)
        def act(context: SagaContext) -> None:
            ran.append(("f", saga_info().step))
            if saga_info().step == context["bad"]:
                raise ValueError("declined")
            context[re.sub(r"\W", "_", saga_info().step)] = sorted(context)

        @app.task(name="back", shared=False)
        def back(context: SagaContext) -> None:
            ran.append(("c", saga_info().step))

        @app.task(name="condition", shared=False)
        def condition(number: int) -> bool:
            return number % 2 == 0

        @app.task(name="confirm", shared=False)
        def confirm() -> None:
            ran.append(("commit", saga_info().step))

        self.act, self.back, self.condition, self.confirm = act, back, condition, confirm

    def bodies(self, direction: str) -> list[str]:
        return [step for way, step in self.ran if way == direction]


class Builder:
    """Builds a saga from random numbers."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.random, self.count = bench, random.Random(seed), 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def step(self) -> LocalSagaStep:
        back = self.bench.back if self.random.random() < 0.8 else None
        confirm = self.bench.confirm if self.random.random() < 0.3 else None
        return LocalSagaStep(self.bench.act, back, name=self.name("s"), on_commit=confirm)

    def branch(self, depth: int) -> Any:
        if depth == 0 or self.random.random() < 0.4:
            return self.step()
        return self.saga(depth).commit()

    def saga(self, depth: int) -> Saga:
        saga = Saga(self.name("n"), app=self.bench.app)
        for _ in range(self.random.randint(1, 3)):
            self.add(saga, depth - 1)
        return saga

    def add(self, saga: Saga, depth: int) -> None:
        kind = self.random.choice(["step", "parallel", "loop", "nested", "choice"])
        if kind == "step" or depth == 0:
            saga.local_step(self.step())
        elif kind == "parallel":
            branches = [self.branch(depth) for _ in range(self.random.randint(1, 3))]
            saga.parallel_step(*branches, name=self.name("g"))
        elif kind == "loop":
            together = self.random.random() < 0.5
            saga.for_each("items", self.branch(depth), name=self.name("g"), parallel=together)
        elif kind == "nested":
            keys = self.random.choice([None, ["number", "items", "bad"]])
            saga.nested_step(self.saga(depth).commit(), inputs=keys)
        else:
            choice = saga.conditional_step(name=self.name("g"))
            choice.if_then(self.bench.condition, self.branch(depth))
            if self.random.random() < 0.5:
                choice.else_then(self.branch(depth))


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    found = Bench()
    yield found
    found.app.close()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_ran_is_compensated_in_reverse_order(bench: Bench, seed: int) -> None:
    builder = Builder(bench, seed)
    saga = builder.saga(4).commit()
    plan = saga.plan
    assert Plan.from_text(plan.text) == plan
    steps = [node for _, node in plan.walk() if isinstance(node, PlanStep)]
    compensated = {node.name for node in steps if node.compensation is not None}
    committed = {node.name for node in steps if node.commit is not None}
    items = [1, 2, 3][: builder.random.randint(0, 3)]
    context = {"number": builder.random.randint(0, 1), "items": items, "bad": ""}

    bench.ran.clear()
    result = saga.delay(**context)

    ran = bench.bodies("f")
    assert result.status == "COMPLETED"
    assert bench.bodies("c") == []
    assert bench.bodies("commit") == [commit_of(step) for step in ran if base(step) in committed]
    assert len({*ran}) == len(ran)
    assert {*ran} <= {*result.progress}
    for bad in builder.random.sample(ran, min(2, len(ran))):
        bench.ran.clear()
        assert saga.delay(**{**context, "bad": bad}).status == "COMPENSATED"
        done = [step for step in bench.bodies("f") if step != bad]
        wanted = [step for step in done if base(step) in compensated]
        assert bench.bodies("c") == wanted[::-1]
        assert bench.bodies("commit") == []


def base(step: str) -> str:
    """The name of a step without the numbers of its items."""
    return re.sub(r"(\[\d+\])+$", "", step)


def commit_of(step: str) -> str:
    return f"{base(step)}.commit{step.removeprefix(base(step))}"
