"""The types that users see; checked by mypy, never run."""

from typing import Any
from uuid import UUID

from celery import Celery, Signature
from typing_extensions import assert_type

from celery_saga import (
    LocalSagaStep,
    Saga,
    SagaContext,
    SagaExecution,
    SagaInfo,
    SagaManager,
    SagaResult,
    SagaStatus,
    saga_info,
)

app = Celery("shop")
sagas = SagaManager(app)

saga = Saga("checkout")
assert_type(saga.local_step("shop.reserve", inputs=["order_id"]), LocalSagaStep)
assert_type(saga.commit(), Saga)

result = saga.delay(order_id=7)
assert_type(result, SagaResult)
assert_type(result.get(timeout=10), SagaContext)
assert_type(result.status, SagaStatus)
assert_type(result.execution, SagaExecution)
assert_type(result.cancel(), bool)
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
