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
from celery_saga.core.plan import Call, Input, Plan, PlanStep
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


@pytest.mark.parametrize("changed", [True, False], ids=["another value", "an equal value"])
@pytest.mark.parametrize("what", sorted(STEPS_THAT_REPLACE))
def test_steps_that_replace_what_compensations_read(
    client: redis.Redis, what: str, changed: bool
) -> None:
    action, inputs, key = STEPS_THAT_REPLACE[what]
    step = PlanStep("s", action, Call("compensate", inputs=inputs))
    plan, store = Plan("reads", (step,) * STEPS), CountingStore(client, prefix=f"{what}:")
    orchestrator: Any = Orchestrator(store, Silent(), Silent())  # type: ignore[arg-type]
    values, read = [f"{index * changed:1000}" for index in range(STEPS)], list[int]()
    orchestrator.start(plan, what, {"order": values[0], "id": values[0]}, token="t")

    def seen() -> int:
        return int(client.info("stats")["total_net_output_bytes"])

    for index in range(STEPS):
        before = seen()
        ref = StepRef((index,), Direction.FORWARD, 1)
        execution = orchestrator.claim(what, ref, Claim(f"c{index}", "instance"), plan.hash)
        update = Values({key: values[index]})
        event = StepSucceeded(store.now(), ref, f"c{index}", update)
        execution = orchestrator.apply(what, event, execution).execution
        read.append(seen() - before)

    # The first claim has read all of it, because the process did not know the plan.
    assert execution.status.value == "COMPLETED"
    assert store.loads == 0
    assert sum(read[-10:]) < 1.05 * sum(read[2:12])
    records = orchestrator.load(what).steps[:-1]
    kept = [record.kept and json.loads(record.kept[key]) for record in records]
    assert kept == (values[:-1] if changed else [None] * (STEPS - 1))
