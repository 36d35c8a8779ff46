"""The types of sagas whose context has a model; checked by mypy, never run."""

from dataclasses import dataclass
from typing import Any

from celery import Celery
from pydantic import BaseModel
from typing_extensions import assert_type

from celery_saga import Saga, SagaContext, SagaExecution, SagaManager, SagaResult


class Order(BaseModel):
    order_id: int
    payment_id: str | None = None


@dataclass
class Trip:
    hotel: str


app = Celery("shop")
sagas = SagaManager(app)

checkout = Saga("checkout", context=Order)
assert_type(checkout, Saga[Order])
checkout.local_step("shop.charge", inputs=["order_id"], returns="payment_id")
assert_type(checkout.commit(), Saga[Order])
assert_type(checkout.delay(order_id=7), SagaResult[Order])
assert_type(checkout.apply_async(Order(order_id=7), saga_id="order-7"), SagaResult[Order])
assert_type(checkout.apply_async({"order_id": 7}), SagaResult[Order])
result = checkout.delay(order_id=7)
assert_type(result.get(timeout=10), Order)
assert_type(result.get(timeout=10).payment_id, str | None)
assert_type(result.get(propagate=False), Any)
assert_type(result.context.order_id, int)
assert_type(result.execution, SagaExecution)
assert_type(result.execution.context, SagaContext)
print(result.get().paymentid)  # type: ignore[attr-defined]

assert_type(sagas.get("order-7"), SagaResult[SagaContext])
assert_type(sagas.get("order-7", checkout), SagaResult[Order])

trip = Saga("trip", context=Trip)
assert_type(trip.delay(hotel="h").get().hotel, str)
trip.apply_async(Order(order_id=7))  # type: ignore[arg-type]

# Without a model nothing changes.
plain = Saga("plain")
assert_type(plain, Saga)
assert_type(plain, Saga[SagaContext])
assert_type(plain.delay().get(), SagaContext)


def start(saga: Saga) -> SagaResult:
    return saga.delay(order_id=7)


def start_any(saga: Saga[Any]) -> SagaResult[Any]:
    return saga.delay(order_id=7)


start(plain)
start_any(checkout)


async def run() -> None:
    assert_type(await sagas.run(checkout, Order(order_id=7)), SagaExecution)
    assert_type(await sagas.run(checkout, {"order_id": 7}), SagaExecution)
    assert_type(await sagas.run(definition=plain, context=SagaContext()), SagaExecution)
