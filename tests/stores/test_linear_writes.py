"""What a saga writes depends on what its steps add, not on what is there."""

from __future__ import annotations

from typing import Any

import redis

from celery_saga.core.context.data import Values
from celery_saga.core.events import StepSucceeded
from celery_saga.core.execution import Claim
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.plan import Call, Plan, PlanStep
from celery_saga.stores.redis import RedisStore
from celery_saga.testing.embedded import EmbeddedValkey

STEPS, ADDED = 50, 20_000


class Silent:
    """Sends nothing: only what the store writes is measured."""

    def first_message(self, execution: Any) -> Any:
        return execution, {}

    def message(self, *args: Any) -> dict[str, Any]:
        return {}

    def publish(self, message: Any) -> None: ...

    def encode(self, message: Any) -> None: ...


def test_fifty_steps_that_add_a_megabyte_write_it_once(valkey: EmbeddedValkey) -> None:
    client: Any = redis.Redis.from_url(valkey.url(7))
    orchestrator: Any = Orchestrator(RedisStore(client, prefix="large:"), Silent(), Silent())  # type: ignore[arg-type]
    plan = Plan("large", tuple(PlanStep(f"s{n}", Call(f"t{n}")) for n in range(STEPS)))
    execution, _ = orchestrator.start(plan, "large", {"first": 1}, token="t")
    written: list[int] = []

    def seen() -> int:
        return int(client.info("stats")["total_net_input_bytes"])

    for index in range(STEPS):
        before = seen()
        execution = orchestrator.load("large")
        ref = execution.ref(index)
        execution = orchestrator.claim("large", ref, Claim(f"c{index}", "instance"), plan.hash)
        update = Values({f"added_{index}": "x" * ADDED})
        at = orchestrator.store.now()
        execution = orchestrator.apply(
            "large", StepSucceeded(at, ref, f"c{index}", update), execution
        ).execution
        written.append(seen() - before)

    assert execution.status.value == "COMPLETED"
    found = orchestrator.load("large")
    assert found.values.size == 1 + STEPS * (ADDED + 2)
    assert client.hget("large:execution:large", "z") == str(found.values.size).encode()
    # Each step wrote what it added and some two kilobytes, the last ones as the first ones; the
    # very first one taught the server the scripts.
    assert max(written[1:]) < ADDED + 3_000
    assert sum(written[-10:]) < 1.05 * sum(written[1:11])
    client.close()
