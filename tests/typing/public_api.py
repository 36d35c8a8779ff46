"""The types that users see; checked by mypy, never run."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from celery import Celery, Signature, Task, shared_task
from celery.result import AsyncResult
from typing_extensions import assert_type

from celery_saga import (
    ConditionalSagaStep,
    LocalSagaStep,
    NestedSagaStep,
    Saga,
    SagaContext,
    SagaExecution,
    SagaInfo,
    SagaManager,
    SagaResult,
    SagaStatus,
    saga_info,
    saga_step,
)

app = Celery("shop")
sagas = SagaManager(app)

saga = Saga("checkout")
assert_type(saga.local_step("shop.reserve", inputs=["order_id"]), LocalSagaStep)
assert_type(saga.commit(), Saga)

# Branches: each kind of step continues the chain.
inner = Saga("inner", steps=["shop.pay"]).commit()
tree = Saga("tree")
tree.parallel_step("shop.reserve", LocalSagaStep("shop.charge", "shop.refund"), inner, name="both")
tree.parallel_step("shop.a", compensate="parallel").local_step("shop.b").commit()
assert_type(tree.conditional_step(name="way"), ConditionalSagaStep)
tree.conditional_step().if_then(lambda context: context.total > 1, inner).else_then(inner)
tree.local_step("shop.a").conditional_step().if_then("shop.large", "shop.b", inputs=["total"])
tree.for_each("lines", "shop.pack", as_="line", parallel=True, returns="parcels")
tree.for_each(("order", "lines", 0), inner, compensate="parallel")
assert_type(tree.nested_step(inner, inputs=["order_id"], returns={"paid": "id"}), NestedSagaStep)
NestedSagaStep(inner, name="first")
tree.parallel_step("shop.a", compensate="sideways")  # type: ignore[arg-type]
tree.wait_for("approved", timedelta(days=1), inner, returns="answer").sleep_step(5).commit()
tree.wait_for("paid", 2.5, "shop.remind", returns=False, name="payment")
tree.wait_for("paid", "5")  # type: ignore[arg-type]

result = saga.delay(order_id=7)
assert_type(result, SagaResult)
assert_type(result.get(timeout=10), SagaContext)
assert_type(result.status, SagaStatus)
assert_type(result.execution, SagaExecution)
assert_type(result.cancel(), bool)
assert_type(result.signal("approved", {"by": "ann"}), bool)
assert_type(sagas.signal(result, "approved", by="ann"), SagaResult)
assert_type(result.cancel("why", by="ann", terminate=True, signal="SIGKILL"), bool)
result.forget()
assert_type(saga.s(order_id=7), Signature[Any])
assert_type(saga.si(order_id=7), Signature[Any])
assert_type(saga.signature({"order_id": 7}, immutable=True, queue="q"), Signature[Any])
assert_type(sagas.get("id"), SagaResult)
assert_type(saga.apply_async({"order_id": 7}, saga_id="order-7"), SagaResult)
assert_type(saga_info(), SagaInfo)
assert_type(saga_info().idempotency_key, str)
assert_type(saga_info().saga_id, str | None)


assert_type(SagaManager(storage="redis://localhost/0", broker_pool=app), SagaManager)
assert_type(saga.delay_on_commit(order_id=7), None)
assert_type(saga.delay_on_commit(order_id=7, using="orders"), None)
assert_type(SagaExecution.from_raw(result.execution.raw), SagaExecution)
assert_type(result.execution.uuid, UUID | str)
assert_type(result.status.Errored, bool)
assert_type(result.status == SagaStatus.Errored, bool)


async def load(saga_id: str) -> None:
    execution = await sagas.repository.load(saga_id)
    assert_type(execution, SagaExecution)
    assert_type(await sagas.repository.store(execution), None)


async def run(whole: bool) -> None:
    assert_type(await sagas.run(saga, SagaContext(order_id=7)), SagaExecution)
    assert_type(await sagas.run(definition=saga, raise_on_error=False), SagaExecution)
    assert_type(await sagas.run(saga, return_execution=whole), SagaExecution | UUID | str)


# README's example, and the types of its tasks.


@app.task
def refund_card(payment_id: str | None = None) -> None:
    print(payment_id or saga_info().forward_key)


@saga_step(compensation=refund_card, inputs={"total": ("order", "total")}, returns="payment")
@shared_task
def charge_card(customer_id: str, total: float) -> str:
    return f"{customer_id}/{total}/{saga_info().idempotency_key}"


@saga_step
@shared_task
def ship(order_id: int) -> str:
    return f"s-{order_id}"


@saga_step(parameters={"label": "x"})
def remember(context: SagaContext, label: str) -> None: ...


@saga_step(compensation=refund_card)
@app.task(acks_late=True, autoretry_for=(TimeoutError,), retry_backoff=True)
def pay(customer_id: str, total: float) -> dict[str, str]:
    return {"payment_id": saga_info().idempotency_key}


of_an_app: Task[Any, Any] = pay
kept: Task[[str, float], str] = charge_card
shared: Task[[int], str] = ship
assert_type(charge_card.delay("c", 9.9), AsyncResult[str])
assert_type(ship.delay(order_id=7).get(), str)
charge_card.delay("c")  # type: ignore[call-arg]
remember(SagaContext(), label="y")
remember(7)  # type: ignore[call-arg,arg-type]

typed = Saga("typed", steps=[charge_card, "shop.ship", remember, LocalSagaStep(ship)])
typed.local_step(charge_card, name="pay", retriable=True, max_attempts=3, on_lost="rerun")
typed.local_step(ship, returns=False, read_only=True, queue="fast", priority=3, time_limit=9)
typed.local_step(charge_card, compensate_on_failure=ValueError, parameters={"total": 1.0})
typed.local_step(
    charge_card, compensate_on_failure=(ValueError, KeyError), compensation=refund_card
)
typed.local_step().on_execute(charge_card, {"total": 1.0}, inputs=["customer_id"], pivot=True)
assert_type(typed.local_step(ship).on_failure(refund_card, queue="slow"), LocalSagaStep)

# What is refused when it runs is refused by the checker.
typed.local_step(42)  # type: ignore[arg-type]
typed.local_step(charge_card, pivto=True)  # type: ignore[call-arg]
typed.local_step(charge_card, on_lost="again")  # type: ignore[arg-type]
typed.local_step(charge_card, priority="high")  # type: ignore[arg-type]
typed.local_step(ship).on_failure(refund_card, pivot=True)  # type: ignore[call-arg]
LocalSagaStep(ship, retruns="x")  # type: ignore[call-arg]
saga_step(compensation=42)(ship)  # type: ignore[call-overload]
Saga("typed", steps=[42])  # type: ignore[list-item]
