"""Views that start sagas; each request is one transaction (ATOMIC_REQUESTS)."""

from django.db import connection, transaction
from django.http import JsonResponse

from tests.django.orders.models import Order
from tests.django.orders.sagas import place_order, sell


def _amount(request):
    return int(request.GET.get("amount", 10))


def place(request):
    """Save the order and start its saga; what comes after may still fail."""
    order = Order.objects.create(amount=_amount(request))
    saga_id = f"order-{order.pk}"
    started = place_order.apply_async_on_commit(
        # Not an order, but its key: that is refused while the order can be rolled back.
        {"order_id": order if "mistake" in request.GET else order.pk, "amount": order.amount},
        saga_id=saga_id,
    )
    assert started is None
    if "fail" in request.GET:
        raise RuntimeError("something after it went wrong")
    return JsonResponse({"order": order.pk, "saga": saga_id})


def place_in_parts(request):
    """Three orders, the second of which is rolled back to its savepoint."""
    placed = []
    for number in range(3):
        try:
            with transaction.atomic():
                order = Order.objects.create(amount=_amount(request))
                place_order.delay_on_commit(order_id=order.pk, amount=order.amount)
                if number == 1:
                    raise LookupError
                placed.append(order.pk)
        except LookupError:
            continue
    return JsonResponse({"orders": placed})


@transaction.non_atomic_requests
def place_outside(request):
    """Without a transaction there is nothing to wait for."""
    order = Order.objects.create(amount=_amount(request))
    place_order.delay_on_commit(order_id=order.pk, amount=order.amount)
    return JsonResponse({"order": order.pk, "atomic": connection.in_atomic_block})


def sale(request):
    """Steps behind the barrier, the first of which is tried twice."""
    order = Order.objects.create(amount=_amount(request))
    sell.delay_on_commit(order_id=order.pk, amount=order.amount)
    return JsonResponse({"order": order.pk})


def state(request, pk):
    """How far an order is; nothing if there is none."""
    found = Order.objects.filter(pk=pk).values_list("state", flat=True)
    return JsonResponse({"states": list(found)})
