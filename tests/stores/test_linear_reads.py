"""What a step reads of its saga does not depend on the number of steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from celery_saga.core.context.data import Values
from celery_saga.core.events import StepSucceeded
from celery_saga.core.execution import Claim, Direction, SagaExecution, StepRef
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.plan import Call, ForEach, Input, NestedSaga, Parallel, Plan, PlanStep
from celery_saga.stores.redis import RedisStore
from celery_saga.testing.embedded import EmbeddedValkey

STEPS = 50

ORDER, ID = (Input("order", ("order",)),), (Input("id", ("id",)),)

#: The calls of each step: its compensation reads what every step replaces.
STEPS_THAT_REPLACE = {
    "a-key-that-the-plan-names": (Call("do", inputs=ORDER, returns="order"), ORDER, "order"),
    "a-key-of-a-mapping": (Call("do", inputs=ORDER), ID, "id"),
}


class Silent:
    """Sends nothing: only what is read is measured."""

    def first_message(self, execution: Any) -> Any:
        return execution, {}

    def message(self, *args: Any) -> dict[str, Any]:
        return {}

    def publish(self, message: Any) -> None: ...

    def encode(self, message: Any) -> None: ...


class CountingStore(RedisStore):
    """Counts how often whole sagas are read."""

    loads = 0

    def load(self, saga_id: str, context: bool = True) -> SagaExecution | None:
        self.loads += 1
        return super().load(saga_id, context)


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url(8)) as client:
        yield client
        client.flushdb()


def run(
    orchestrator: Any, client: redis.Redis, plan: Plan, ref: StepRef, update: dict[str, Any]
) -> tuple[SagaExecution, int]:
    """Claim a step and report that it succeeded; also how many bytes the server has sent for it."""

    def seen() -> int:
        return int(client.info("stats")["total_net_output_bytes"])

    saga_id, token, before = plan.saga, f"c{ref}", seen()
    execution = orchestrator.claim(saga_id, ref, Claim(token, "instance"), plan.hash)
    event = StepSucceeded(2e9, ref, token, Values(update))
    execution = orchestrator.apply(saga_id, event, execution).execution
    return execution, seen() - before


@pytest.mark.parametrize("changed", [True, False], ids=["another value", "an equal value"])
@pytest.mark.parametrize("what", sorted(STEPS_THAT_REPLACE))
def test_steps_that_replace_what_compensations_read(
    client: redis.Redis, what: str, changed: bool
) -> None:
    action, inputs, key = STEPS_THAT_REPLACE[what]
    step = PlanStep("s", action, Call("compensate", inputs=inputs))
    plan, store = Plan(what, (step,) * STEPS), CountingStore(client, prefix=f"{what}:")
    orchestrator: Any = Orchestrator(store, Silent(), Silent())  # type: ignore[arg-type]
    values = [f"{index * changed:1000}" for index in range(STEPS)]
    orchestrator.start(plan, what, {"order": values[0], "id": values[0]}, token="t")
    read = []
    for index in range(STEPS):
        ref = StepRef((index,), Direction.FORWARD, 1)
        execution, size = run(orchestrator, client, plan, ref, {key: values[index]})
        read.append(size)

    # The first claim has read all of it, because the process did not know the plan.
    assert execution.status.value == "COMPLETED"
    assert store.loads == 0
    assert sum(read[-10:]) < 1.05 * sum(read[2:12])
    records = orchestrator.load(what).steps[:-1]
    kept = [record.kept and json.loads(record.kept[key]) for record in records]
    assert kept == (values[:-1] if changed else [None] * (STEPS - 1))


def reserves(key: str = "id") -> PlanStep:
    """A step whose compensation reads what it returns."""
    compensation = Call("compensate", inputs=(Input("id", (key,)),))
    return PlanStep(f"reserve {key}", Call("do", inputs=ORDER), compensation)


def branches(count: int) -> list[PlanStep]:
    return [reserves(f"id{place}") for place in range(count)]


GROUPS = {
    "branches": lambda n: Parallel("group", tuple(branches(n))),
    "sagas": lambda n: Parallel("group", tuple(NestedSaga("b", (it,)) for it in branches(n))),
    "items": lambda n: ForEach("group", ("items",), "order", reserves(), parallel=True),
    "items-of-a-saga": lambda n: ForEach(
        "group", ("items",), "order", NestedSaga("b", (reserves(),)), parallel=True
    ),
}


@pytest.mark.parametrize("what", sorted(GROUPS))
def test_branches_that_end_while_others_run(client: redis.Redis, what: str) -> None:
    """Each reads its own record, the group's, and the refs of the others."""
    read = {count: read_in_group(client, what, count) for count in (10, 60)}
    assert read[60] < read[10] + 50 * 12


def read_in_group(client: redis.Redis, what: str, count: int) -> float:
    plan = Plan(f"{what}-{count}", (GROUPS[what](count),))
    store = CountingStore(client, prefix=f"{what}:")
    orchestrator: Any = Orchestrator(store, Silent(), Silent())  # type: ignore[arg-type]
    values = {"order": "x" * 100, "items": ["x" * 100] * count}
    orchestrator.start(plan, plan.saga, values, token="t")
    read, refs = [], orchestrator.load(plan.saga).active
    assert len(refs) == count
    store.loads = 0
    for ref in refs:
        (key,) = plan.step(ref.path).later_reads
        execution, size = run(orchestrator, client, plan, ref, {key: f"r{ref}"})
        read.append(size)
    assert (execution.status.value, store.loads) == ("COMPLETED", 1)  # the join has read all of it
    return sum(read[1:-1]) / (count - 2)
