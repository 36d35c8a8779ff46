"""The order service: it runs the saga, and asks the stock service for goods."""

from celery import Celery

from celery_saga import Saga, SagaContext, SagaManager, SagaRequest, SagaResponse

app = Celery("orders")
app.conf.task_default_queue = "orders"
app.conf.saga_targets = {
    "stock-service": ("stock.reserve", "stock"),
    "stock-service-back": ("stock.release", "stock"),
}
sagas = SagaManager(app)


class CardDeclined(Exception):
    """The bank refuses the card."""


def ask_for_goods(context: SagaContext) -> SagaRequest:
    """The request: its content is the one argument of the stock service's task."""
    keys = ("order_id", "sku", "quantity")
    return SagaRequest("stock-service", {key: context[key] for key in keys})


def keep_reservation(context: SagaContext, response: SagaResponse) -> None:
    """The reply: what the stock service's task has returned."""
    context.update(response.content())


def return_goods(context: SagaContext) -> SagaRequest:
    """The request that compensates the first one."""
    return SagaRequest("stock-service-back", context.order_id)


@app.task(acks_late=True)
def charge(order_id: int, card: str) -> dict[str, str]:
    """Charge the card, in this service."""
    if card == "declined":
        raise CardDeclined(f"order {order_id}")
    return {"payment_id": f"p-{order_id}"}


order = Saga("order", app=app)
order.remote_step(ask_for_goods, name="stock", timeout=30).on_success(keep_reservation).on_failure(
    return_goods
)
order.local_step(charge, read_only=True)
order.commit()
