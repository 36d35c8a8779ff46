"""Ordinary tasks of a Django project; each goes to the database."""

import uuid

from celery import shared_task

from celery_saga.contrib.barrier.django import once
from tests.django.orders.models import Order


def _move(order_id, state):
    order = Order.objects.get(pk=order_id)  # it is committed, or this fails
    order.state = f"{order.state}, {state}"
    order.save()


@shared_task
def reserve(order_id):
    _move(order_id, "reserved")


@shared_task
def release(order_id):
    _move(order_id, "released")


@shared_task(acks_late=True)
def charge(order_id, amount):
    if amount > 100:
        raise ValueError("declined")
    _move(order_id, "charged")


@once
def _pay(order_id):
    _move(order_id, "paid")
    return uuid.uuid4().hex


@shared_task(bind=True, autoretry_for=(ConnectionError,), default_retry_delay=0)
def pay(self, order_id):
    receipt = _pay(order_id)
    _move(order_id, f"asked ({receipt[:4]})")
    if not self.request.retries:
        raise ConnectionError("the answer is lost, the payment is made")
    return {"receipt": receipt}


@shared_task(acks_late=True)
@once
def pay_back(order_id):
    _move(order_id, "paid back")


@shared_task(acks_late=True)
@once
def pack(order_id, amount):
    if amount > 100:
        raise ValueError("too heavy")
    _move(order_id, "packed")
