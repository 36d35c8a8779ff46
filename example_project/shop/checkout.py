"""The checkout saga: the tasks of the shop in their order, each with its compensation."""

from celery_saga import Saga, SagaContext
from example_project.shop.tasks import (
    book_carrier,
    cancel_booking,
    charge_card,
    refund_card,
    release_stock,
    reserve_stock,
    send_confirmation,
)

#: Cents that the delivery of one order costs, by the country it goes to.
DELIVERY_CENTS = {"DE": 490, "AT": 690}
DELIVERY_ABROAD_CENTS = 1290


def price_order(context: SagaContext) -> SagaContext:
    """Add up what the customer pays: a plain function, for which the context itself is enough."""
    goods = sum(line["quantity"] * line["price_cents"] for line in context.lines)
    delivery = DELIVERY_CENTS.get(context.address["country"], DELIVERY_ABROAD_CENTS)
    context.total_cents = goods + delivery
    return context


checkout = Saga("checkout")
checkout.local_step(price_order, read_only=True)
checkout.local_step(reserve_stock, returns="reservation_id").on_failure(release_stock)
checkout.local_step(charge_card, returns="payment_id").on_failure(refund_card)
checkout.local_step(
    book_carrier, inputs={"country": ("address", "country")}, returns="tracking_number"
).on_failure(cancel_booking)
checkout.local_step(send_confirmation, inputs={"email": ("customer", "email")}, returns=False)
checkout.commit()
