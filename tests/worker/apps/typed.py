"""Sagas whose contexts have a model."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from celery import shared_task
from pydantic import BaseModel

from celery_saga import Saga
from tests.worker.apps.functional import app
from tests.worker.apps.journal import note


class Line(BaseModel):
    sku: str
    price: Decimal


class Order(BaseModel):
    order_id: int
    lines: list[Line]
    currency: str = "EUR"
    total: Decimal | None = None
    payment_id: str | None = None


@dataclass
class Trip:
    city: str
    nights: int = 1
    hotel_id: str | None = None


@app.task(acks_late=True)
def add_up(order: Order) -> None:
    note("began", kind=type(order).__name__)
    order.total = sum((line.price for line in order.lines), Decimal(0))


@shared_task(acks_late=True)
def pay(total: Decimal, currency: str) -> Any:
    note("began", total=str(total), kind=type(total).__name__, currency=currency)
    return 5 if total > 100 else "p-1"


@shared_task
def refund(payment_id: Any = None) -> None:
    note("began", payment_id=payment_id)


checkout = Saga("typed-checkout", app=app, context=Order)
checkout.local_step(add_up)
checkout.local_step(pay, returns="payment_id").on_failure(refund)
checkout.commit()


@shared_task(acks_late=True)
def book(trip: Trip) -> Trip:
    return Trip(trip.city, trip.nights + 1, f"{trip.city}-hotel")


trip = Saga("typed-trip", app=app, context=Trip, steps=[book]).commit()
