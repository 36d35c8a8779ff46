"""The shop's Celery tasks. They know nothing of the checkout: each does or takes back one thing.

Warehouse, card gateway and carrier are other systems, so every request to them and every answer
takes a moment, and a worker may die at any point of it. A compensation does not know what it takes
back if the answer of its step was lost.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Task

from example_project.shop.celery import app
from example_project.shop.database import (
    CardDeclined,
    CarrierRefused,
    Line,
    OutOfStock,
    ShopDatabase,
)


class PaymentTimeout(Exception):
    """The card gateway did not answer; the card may have been charged."""


@app.task(acks_late=True, throws=(OutOfStock,))
def reserve_stock(order_id: int, lines: list[Line]) -> str:
    """Set an order's goods aside and return the reservation's id."""
    with outside_call(order_id, "reserve_stock") as shop:
        return shop.reserve(order_id, lines)


@app.task(acks_late=True)
def release_stock(order_id: int, reservation_id: str | None = None) -> None:
    """Put the goods of a reservation back on the shelf."""
    with outside_call(order_id, "release_stock") as shop:
        shop.release(reservation_id)


@app.task(
    bind=True,
    acks_late=True,
    throws=(CardDeclined,),
    autoretry_for=(PaymentTimeout,),
    retry_kwargs={"max_retries": 3, "countdown": 0.2},
)
def charge_card(self: Task[Any, Any], order_id: int, card: str, total_cents: int) -> str:
    """Charge a card and return the payment's id."""
    with outside_call(order_id, "charge_card") as shop:
        payment_id = shop.charge(order_id, card, total_cents)
        if order_id % 7 == 0 and self.request.retries == 0:
            # Now and then the answer is lost. The barrier knows the retry, which
            # gets the same answer and does not charge the card again.
            raise PaymentTimeout(f"no answer about the payment of order {order_id}")
        return payment_id


@app.task(acks_late=True)
def refund_card(order_id: int, payment_id: str | None = None) -> None:
    """Pay back what a card was charged."""
    with outside_call(order_id, "refund_card") as shop:
        shop.refund(payment_id)


# A second booking would send a second van. So this task keeps Celery's default: acknowledged before
# it runs, at most once.
@app.task(throws=(CarrierRefused,))
def book_carrier(order_id: int, reservation_id: str, country: str) -> str:
    """Hand the reserved goods to the carrier and return the tracking number."""
    with outside_call(order_id, "book_carrier") as shop:
        return shop.book(order_id, reservation_id, country)


@app.task(acks_late=True)
def cancel_booking(order_id: int, tracking_number: str | None = None) -> None:
    """Call the van off and take the goods back."""
    with outside_call(order_id, "cancel_booking") as shop:
        shop.cancel(tracking_number)


@app.task(acks_late=True)
def send_confirmation(order_id: int, email: str, total_cents: int, tracking_number: str) -> None:
    """Inform the customer what was paid and how to follow the parcel."""
    text = f"Order {order_id}: {total_cents / 100:.2f} EUR paid, parcel {tracking_number}"
    with outside_call(order_id, "send_confirmation") as shop:
        shop.confirm(order_id, email, text)


@contextmanager
def outside_call(order_id: int, task: str) -> Iterator[ShopDatabase]:
    """Stand for a call to another system: 5 to 30 ms there and as long back, fixed per order."""
    shop = ShopDatabase.from_environment()
    seconds = (5 + zlib.crc32(f"{order_id}/{task}".encode()) % 26) / 1000
    with shop.call_under_way(order_id, task):
        time.sleep(seconds)
        yield shop
        time.sleep(seconds)
