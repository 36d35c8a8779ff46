"""Does the shop's own database agree with what the sagas say? The proof of the example.

The database knows nothing of sagas: it holds what warehouse, card gateway and carrier really did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from celery_saga import SagaContext, SagaStatus
from example_project.shop.checkout import price_order
from example_project.shop.database import ShopDatabase

Order = Mapping[str, Any]


def differences(
    database: ShopDatabase, orders: list[Order], statuses: Mapping[int, SagaStatus]
) -> list[str]:
    """Compare the database with the orders and with the end state of each one's saga.

    Args:
        database: the shop's.
        orders: all of them.
        statuses: the end state by order id; an order may count only if it is completed.

    Returns:
        One sentence per difference; none if everything balances.
    """
    completed = [o for o in orders if statuses[o["order_id"]] is SagaStatus.COMPLETED]
    return [
        *_stock(database, completed),
        *_money(database, orders, completed),
        *_messages(database, orders, completed),
    ]


def _stock(database: ShopDatabase, completed: list[Order]) -> Iterator[str]:
    sold: Counter[str] = Counter()
    for order in completed:
        for line in order["lines"]:
            sold[line["sku"]] += line["quantity"]
    shipped = Counter(
        {
            row["sku"]: row["pieces"]
            for row in database.rows(
                "SELECT sku, sum(quantity) AS pieces FROM reservations"
                " WHERE state = 'shipped' GROUP BY sku"
            )
        }
    )
    for row in database.rows("SELECT sku, initial, on_hand FROM inventory ORDER BY sku"):
        sku, taken = row["sku"], row["initial"] - row["on_hand"]
        if taken != shipped[sku]:
            yield f"{sku}: {taken} pieces left the shelf, {shipped[sku]} were shipped"
        if shipped[sku] != sold[sku]:
            yield f"{sku}: {shipped[sku]} pieces were shipped, {sold[sku]} were sold"
    for row in database.rows("SELECT order_id, sku FROM reservations WHERE state = 'open'"):
        yield f"order {row['order_id']}: {row['sku']} is still reserved"


def _money(database: ShopDatabase, orders: list[Order], completed: list[Order]) -> Iterator[str]:
    due = Counter({order["order_id"]: total_cents(order) for order in completed})
    kept = Counter(
        {
            row["order_id"]: row["cents"]
            for row in database.rows(
                "SELECT order_id, sum(CASE kind WHEN 'charge' THEN cents ELSE -cents END) AS cents"
                " FROM ledger GROUP BY order_id"
            )
        }
    )
    for order in orders:
        order_id = order["order_id"]
        if kept[order_id] != due[order_id]:
            yield f"order {order_id}: {kept[order_id]} cents were kept, {due[order_id]} are due"


def _messages(database: ShopDatabase, orders: list[Order], completed: list[Order]) -> Iterator[str]:
    done = {order["order_id"] for order in completed}
    parcels = "SELECT order_id FROM shipments WHERE state = 'booked'"
    for what, query in (
        ("parcels", parcels),
        ("confirmations", "SELECT order_id FROM confirmations"),
    ):
        found = Counter(row["order_id"] for row in database.rows(query))
        for order in orders:
            order_id = order["order_id"]
            expected = int(order_id in done)
            if found[order_id] != expected:
                yield f"order {order_id}: {found[order_id]} {what}, {expected} expected"


def total_cents(order: Order) -> int:
    """What an order costs, delivery included."""
    return int(price_order(SagaContext(**order)).total_cents)


def totals(database: ShopDatabase) -> dict[str, int]:
    """What happened in all: pieces shipped, cents charged and refunded, parcels, confirmations."""
    queries = {
        "pieces": "SELECT sum(quantity) AS n FROM reservations WHERE state = 'shipped'",
        "charged": "SELECT sum(cents) AS n FROM ledger WHERE kind = 'charge'",
        "refunded": "SELECT sum(cents) AS n FROM ledger WHERE kind = 'refund'",
        "parcels": "SELECT count(*) AS n FROM shipments WHERE state = 'booked'",
        "confirmations": "SELECT count(*) AS n FROM confirmations",
    }
    return {name: database.rows(query)[0]["n"] or 0 for name, query in queries.items()}
