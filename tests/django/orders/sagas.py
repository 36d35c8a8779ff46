"""The sagas of the orders app."""

from celery_saga import Saga
from tests.django.orders.models import Order
from tests.django.orders.tasks import charge, pack, pay, pay_back, release, reserve


def finish(context):
    """A plain function as a step."""
    context.state = Order.objects.get(pk=context.order_id).state
    Order.objects.filter(pk=context.order_id).update(state=f"{context.state}, done")


place_order = Saga("orders.place")
place_order.local_step(reserve).on_failure(release)
place_order.local_step(charge)
place_order.local_step(finish)
place_order.commit()

sell = Saga("orders.sell")
sell.local_step(pay).on_failure(pay_back)
sell.local_step(pack)
sell.commit()
