"""Ordinary tasks of a Django project; each goes to the database."""

from celery import shared_task

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
