"""The app, tasks and sagas of the golden files; a change of them changes no written file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from celery_saga import (
    Const,
    LocalSagaStep,
    NestedSagaStep,
    RemoteSagaStep,
    Saga,
    SagaContext,
    SagaManager,
    SagaResponse,
)

app = Celery("golden", set_as_current=False)
app.conf.update(
    broker_url=os.environ.get("SAGA_TEST_URL", "memory://"),
    result_backend=os.environ.get("SAGA_TEST_URL", "cache+memory://"),
    saga_context_inline_limit=4000,
    saga_max_redeliveries=2,
    saga_unknown_task_grace=700.0,
    saga_context_limit=5_000_000,
    saga_heartbeat=0.2,
    saga_heartbeat_ttl=2.0,
)
manager = SagaManager(app)


@app.task(name="golden.do", acks_late=True)
def do(**arguments: Any) -> str:
    """Any step."""
    return "done"


@app.task(name="golden.early")
def early(**arguments: Any) -> str:
    """A step that is acknowledged early: it is not run again when its worker is lost."""
    return "done"


@app.task(name="golden.compensate")
def compensate(found: Any = None, order: Any = None, total: Any = None) -> None:
    """Any compensation."""


@app.task(name="golden.whole", acks_late=True)
def whole(context: SagaContext) -> SagaContext:
    """A step that takes the whole context."""
    context.seen = sorted(context)
    return context


@app.task(name="golden.handle", acks_late=True)
def handle(context: SagaContext, response: SagaResponse) -> None:
    """A handler of a reply."""


@app.task(name="golden.large")
def is_large(total: float) -> bool:
    """A condition."""
    return total > 10


@app.task(name="golden.notify")
def notify(*arguments: Any) -> None:
    """A callback."""


def step(name: str, *inputs: str, task: Any = do, **options: Any) -> LocalSagaStep:
    """A step with a compensation that reads the step's own result too."""
    returns = f"{name}_id"
    made = LocalSagaStep(task, name=name, inputs=list(inputs), returns=returns, **options)
    return made.on_failure(compensate, inputs={"order": "order_id", "found": returns})


linear = Saga("golden-linear", app=app)
linear.local_step(step("reserve", "order_id", "lines", queue="golden", priority=3))
linear.local_step(
    do,
    name="charge",
    inputs={"amount": "total", "city": ("customer", "city"), "fixed": Const([1, {"a": None}])},
    returns="charge_id",
    compensate_on_failure=(SoftTimeLimitExceeded, ValueError),
).on_failure(compensate, inputs={"found": "charge_id", "total": "total"}, max_attempts=2)
linear.local_step(do, name="mail", inputs=["card_token"], returns="total", read_only=True)
linear.local_step(step("ship", "order_id", task=early))
linear.on_completed(notify).on_stuck(notify)
linear.commit()

retried = Saga("golden-retried", app=app, on_compensation_failure="stop")
retried.local_step(step("book", "order_id"))
retried.local_step(
    step(
        "pay",
        "total",
        retriable=True,
        max_attempts=4,
        retry_backoff=2,
        retry_backoff_max=60,
        on_exhausted="pause",
    )
)
retried.local_step(do, name="seal", inputs=["order_id"], pivot=True)
retried.local_step(do, name="send", inputs=["order_id"], returns=False, expires=3600.0)
retried.commit()

values = Saga("golden-values", app=app)
values.local_step(whole, name="first")
values.local_step(
    do, name="second", inputs=["when", "price", "key", "blob", "day", "clock", "note"]
)
values.commit()

pack = Saga("golden-pack", app=app)
pack.local_step(step("wrap", "line"))
pack.local_step(whole, name="look")
pack.commit()

inner = Saga("golden-inner", app=app)
inner.local_step(step("quote", "amount"))
inner.local_step(step("insure", "quote_id"))
inner.commit()

tree = Saga("golden-tree", app=app)
tree.local_step(step("open", "order_id"))
tree.parallel_step(
    step("left", "order_id"), NestedSagaStep(pack, name="right"), name="both", compensate="parallel"
)
tree.conditional_step(name="way").if_then(is_large, step("van", "total")).else_then(
    step("bike", "total")
)
tree.nested_step(inner, inputs={"amount": "total"}, returns={"insurance": "insure_id"})
tree.for_each("lines", pack, as_="line", parallel=True, name="each")
tree.for_each(
    ("deep", "list"),
    step("stamp", "item"),
    returns="stamp_id",
    name="stamping",
    compensate="parallel",
)
tree.commit()

remote = Saga("golden-remote", app=app)
remote.remote_step(
    RemoteSagaStep(whole, handle, handle, whole, name="stock", timeout=timedelta(days=3650))
)
remote.local_step(step("ship", "order_id"))
remote.commit()

waiting = Saga("golden-waiting", app=app)
waiting.local_step(step("ask", "order_id"))
waiting.wait_for("approved", timedelta(days=3650), step("remind", "order_id"), returns="answer")
waiting.for_each("lines", step("check", "item"), name="checking")
waiting.sleep_step(timedelta(days=3650), name="pause")
waiting.wait_for("paid", returns=False)
waiting.commit()

committing = Saga("golden-committing", app=app)
committing.local_step(
    step("hold", "order_id").on_commit(do, inputs=["hold_id"], retry_backoff=3, queue="golden")
)
committing.for_each("lines", step("part", "item").on_commit(do, inputs=["part_id"]), name="parts")
committing.commit()

held = Saga("golden-held", app=app)
held.parallel_step(
    step("pay", "order_id", retriable=True, max_attempts=1, on_exhausted="pause"),
    step("send", "order_id"),
)
held.commit()


@dataclass
class Order:
    """The model of a context."""

    order_id: int
    total: float
    note: str = "none"


@app.task(name="golden.typed", acks_late=True)
def change(order: Order) -> Order:
    """A step that gets an instance."""
    return Order(order.order_id, order.total, "changed")


part = Saga("golden-typed-part", app=app, context=Order)
part.local_step(change)
part.commit()

typed = Saga("golden-typed", app=app, context=Order)
typed.local_step(step("open", "order_id"))
typed.local_step(change, name="change")
typed.nested_step(part)
typed.commit()
