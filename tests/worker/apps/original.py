"""Local steps as users of the Minos framework write them: functions of a context.

Only what is imported has changed, and that functions which only sagas made at run time use are made
known with ``@saga_step``.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from celery_saga import Saga, SagaContext, SagaManager, saga_step
from tests.worker.apps.functional import app
from tests.worker.apps.journal import note, wait_at


class OutOfStock(Exception):
    """With two arguments, which cannot be restored from its text."""

    def __init__(self, sku, wanted):
        super().__init__(sku, wanted)
        self.sku, self.wanted = sku, wanted

    def __str__(self):
        return f"{self.wanted} of {self.sku} wanted"


def validate_order(context):
    note("began")
    if not context.get("total") or context.total <= 0:
        raise ValueError("the order has no total")
    context.validated_at = datetime.now(timezone.utc).isoformat()
    return context


async def reserve(context):
    note("began")
    for line in context["items"]:
        if line["quantity"] > 5:
            raise OutOfStock(line["sku"], line["quantity"])
    context.reservation_id = f"r-{context.order_id}"
    return context


def release(context):
    note("began")
    context.released = True
    if context.get("warehouse") == "closed":
        raise ConnectionError("no answer from the warehouse")


def pay(context):
    note("began")
    if "hold" in context:
        wait_at("pay")
    if context.get("payment_method") == "shells":
        raise KeyError("shells")
    context.update(payment_id="p-1", payment_status="completed")


def order_saga():
    saga = Saga()
    saga.local_step().on_execute(validate_order)
    saga.local_step().on_execute(reserve).on_failure(release, max_attempts=1)
    saga.local_step().on_execute(pay)
    return saga.commit()


place_order = order_saga()


def validate_schema(context: SagaContext) -> bool:
    """A validator in the style of the original's samples: it says True, and changes nothing."""
    for field, expected in {"order_id": (str, int), "items": list}.items():
        if field not in context:
            raise ValueError(f"field {field!r} is missing")
        if not isinstance(context[field], expected):
            raise TypeError(f"field {field!r} must be {expected}")
    return True


def log_state(context, step):
    note("logged", step_name=step, keys=sorted(context))


monitored = Saga("original-monitored")
monitored.local_step().on_execute(validate_schema)
monitored.local_step().on_execute(lambda ctx: log_state(ctx, "start") or validate_order(ctx))
monitored.commit()


class Snapshot:
    """A copy of a context, for tests to look at."""

    def __init__(self, context):
        self.data = dict(context)

    def to_json(self):
        return json.dumps(self.data)


@saga_step
def snapshot(context):
    context.snapshot = Snapshot(context).to_json()
    return context


@saga_step
def express(context):
    note("began")
    context.sent_by = "express"
    return context


@saga_step
def standard(context):
    note("began")
    context.sent_by = "post"
    return context


def unknown_to_workers(context):
    raise AssertionError("it ran")


def flow_of(context):
    if context.customer.get("tier") == "premium":
        return "express"
    return "standard" if context.order.get("total", 0) > 100 else "snapshot only"


def dynamic_saga(context):
    """The steps depend on the data; the function that builds them exists in this process alone."""
    saga = Saga()
    context.processing = flow_of(context)
    if context.processing == "express":
        saga.local_step().on_execute(express)
    elif context.processing == "standard":
        saga.local_step().on_execute(standard)
    saga.local_step().on_execute(snapshot)
    return saga.commit()


class OrderContexts:
    """A factory of contexts."""

    @staticmethod
    def create(order: dict[str, Any]) -> SagaContext:
        return SagaContext(
            order_id=order["id"],
            items=order["items"],
            total=sum(line["price"] * line["quantity"] for line in order["items"]),
            status="pending",
        )

    @staticmethod
    def with_payment(payment: dict[str, Any], context: SagaContext) -> SagaContext:
        context.update(payment_method=payment["method"], payment_token=payment["token"])
        return context


def every_way_to_read_and_write(context):
    """What the page shows of a context, on a worker."""
    note("began", customer=context.customer_id, order=context["order_id"], keys=list(context))
    context["status"] = "processing"
    context.payment_method = "credit_card"
    context.update({"status": "paid"}, priority="high")
    context.shipping = context.get("shipping_cost", 0.0)
    context.taken = context.pop("temporary")
    context.missing = context.pop("nowhere", "default")
    del context.discount
    del context["note"]
    context.size = len(context)
    context.pairs = sorted(key for key, _ in context.items())
    context.order["lines"][0]["qty"] += 1
    context.has = "discount" in context


basic = Saga("original-basic", steps=[every_way_to_read_and_write]).commit()


async def runs_another(context):
    """A step that runs a saga of its own: waiting for it is refused, starting it is not."""
    manager = SagaManager(app)
    context.started = await manager.run(
        nothing_but_a_note, {}, pause_on_disk=True, return_execution=False
    )
    await manager.run(nothing_but_a_note, {})


def noted(context):
    note("began")


nothing_but_a_note = Saga("original-note", steps=[noted]).commit()
nested = Saga("original-nested", steps=[runs_another]).commit()


def returns_a_number(context):
    return 7


ends_badly = Saga("original-bad")
ends_badly.local_step().on_execute(reserve).on_failure(release)
ends_badly.local_step().on_execute(returns_a_number)
ends_badly.commit()
