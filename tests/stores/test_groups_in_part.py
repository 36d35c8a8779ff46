"""A branch of a group is claimed with its own record and the group's; only the last needs all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.decide import decide
from celery_saga.core.events import Started, StepSucceeded
from celery_saga.core.execution import Claim, SagaExecution, StepRef
from celery_saga.core.plan import Call, NestedSaga, Parallel, Plan, PlanStep
from celery_saga.stores.redis.store import RedisStore
from celery_saga.testing.embedded import EmbeddedValkey


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with EmbeddedValkey() as server, redis.Redis.from_url(server.url(0)) as client:
        yield client


def step(name: str) -> PlanStep:
    return PlanStep(name, Call(f"do.{name}", returns=name), Call(f"compensate.{name}"))


PLAN = Plan(
    "groups",
    (
        Parallel(
            "together", (step("a"), step("b"), NestedSaga("c", (step("c.one"), step("c.two"))))
        ),
        step("last"),
    ),
)


def claimed(store: RedisStore, saga_id: str, ref: StepRef) -> SagaExecution:
    found = store.claim(saga_id, ref, Claim(f"token of {ref}", "instance"), PLAN.hash)
    assert isinstance(found, SagaExecution)
    return found


def reported(store: RedisStore, execution: SagaExecution, ref: StepRef) -> SagaExecution:
    name = PLAN.name_of(ref.path)
    event = StepSucceeded(store.now(), ref, f"token of {ref}", {name: 1})
    saved = store.save(execution, decide(execution, event).execution, f"save of {ref}")
    assert saved is not None
    return saved


def active(store: RedisStore, saga_id: str) -> tuple[StepRef, ...]:
    found = store.load(saga_id)
    assert found is not None
    return found.active


def test_a_branch_that_is_not_the_last_is_read_in_part(client: redis.Redis) -> None:
    store, saga_id = RedisStore(client), "in-part"
    new = SagaExecution.create(saga_id, PLAN, {"order_id": 7}, at=store.now())
    store.create(decide(new, Started(store.now())).execution, "token")
    refs = active(store, saga_id)
    claimed(store, saga_id, refs[0])  # the plan is known from now on
    parts = [claimed(store, saga_id, ref) for ref in refs]
    assert [part.steps.whole for part in parts] == [False, False, False]
    after = reported(store, claimed(store, saga_id, refs[0]), refs[0])
    assert (after.steps.whole, after.steps[(0,)].left) == (False, 2)


def test_the_last_one_needs_all(client: redis.Redis) -> None:
    store, saga_id = RedisStore(client), "the-last"
    new = SagaExecution.create(saga_id, PLAN, {}, at=store.now())
    store.create(decide(new, Started(store.now())).execution, "token")
    refs = active(store, saga_id)
    claimed(store, saga_id, refs[0])
    for ref in refs[:2]:
        reported(store, claimed(store, saga_id, ref), ref)
    inner = reported(store, claimed(store, saga_id, refs[2]), refs[2]).active[0]
    part = claimed(store, saga_id, inner)
    with pytest.raises(NotLoaded):
        decide(part, StepSucceeded(store.now(), inner, f"token of {inner}", {"c.two": 1}))
    whole = store.load(saga_id)
    assert whole is not None
    joined = reported(store, whole, inner)
    assert dict(joined.context) == {"a": 1, "b": 1, "c.one": 1, "c.two": 1}
    assert [ref.path for ref in joined.active] == [(1,)]
