"""A small shop, as the tests of this folder and their worker see it. Its world is a Redis hash."""

import os

import redis
from celery import Celery

from celery_saga import AbortSaga, Saga, SagaContext, SagaManager, saga_info, saga_step

URL = os.environ["SAGA_TEST_URL"]

app = Celery("shop", broker=URL, backend=URL)
sagas = SagaManager(app)

world = redis.Redis.from_url(URL, decode_responses=True)


@app.task
def release_stock(order_id, reservation=None):
    """Without a reservation its step's answer was lost: it is found by what is known."""
    world.hdel("reserved", reservation or f"r-{order_id}")


@saga_step(compensation=release_stock, returns="reservation")
@app.task
def reserve_stock(order_id, quantity=1):
    reservation = f"r-{order_id}"
    world.hset("reserved", reservation, quantity)
    return reservation


@app.task
def refund_card(payment_id=None):
    world.hdel("charged", saga_info().forward_key)


@app.task
def charge_card(order_id, total):
    if total > 1000:
        raise ValueError("declined")
    world.hset("charged", saga_info().idempotency_key, total)
    return {"payment_id": f"p-{order_id}"}


@app.task
def ship_order(order_id, country="NL"):
    if country == "Atlantis":
        raise AbortSaga("no delivery to Atlantis")
    world.hset("shipped", order_id, country)


def add_up(context: SagaContext):
    """A plain function gets the whole context and may change it."""
    context.total = sum(line["price"] * line["quantity"] for line in context["items"])


checkout = Saga("checkout")
checkout.local_step(add_up)
checkout.local_step(reserve_stock)
checkout.local_step(charge_card).on_failure(refund_card)
checkout.local_step(ship_order)
checkout.commit()
