"""The example's shop by itself: what makes its calls safe to repeat, and the balance check."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import example_project
from celery_saga import SagaStatus
from example_project.balance import differences, total_cents, totals
from example_project.shop import tasks
from example_project.shop.database import (
    CallBlocked,
    CardDeclined,
    CarrierRefused,
    OutOfStock,
    ShopDatabase,
)

EXAMPLE = Path(example_project.__file__).parent
LINES: Any = [
    {"sku": "MUG", "quantity": 2, "price_cents": 1000},
    {"sku": "RUG", "quantity": 1, "price_cents": 20000},
]
COMPLETED, COMPENSATED = SagaStatus.COMPLETED, SagaStatus.COMPENSATED


def order(order_id: int) -> dict[str, Any]:
    return {"order_id": order_id, "lines": LINES, "address": {"country": "DE"}}


@pytest.fixture
def shop(tmp_path, monkeypatch) -> ShopDatabase:
    path = tmp_path / "shop.sqlite"
    monkeypatch.setenv("SHOP_DATABASE", str(path))
    database = ShopDatabase(path)
    database.create(
        [
            {"sku": "MUG", "title": "Mug", "grams": 400, "on_hand": 10},
            {"sku": "RUG", "title": "Rug", "grams": 9000, "on_hand": 5},
        ]
    )
    return database


def on_hand(shop: ShopDatabase) -> dict[str, int]:
    return {row["sku"]: row["on_hand"] for row in shop.rows("SELECT * FROM inventory")}


def complete(shop: ShopDatabase, order_id: int) -> None:
    """What the checkout does when all goes well."""
    reservation_id = shop.reserve(f"{order_id}/reserve", order_id, LINES)
    shop.charge(f"{order_id}/charge", order_id, "tok_visa", total_cents(order(order_id)))
    shop.book(f"{order_id}/book", order_id, reservation_id, "DE")
    shop.confirm(f"{order_id}/confirm", order_id, "a@example.org", "Thank you")


def undo(shop: ShopDatabase, order_id: int) -> None:
    shop.cancel(f"{order_id}/cancel", f"{order_id}/book")
    shop.refund(f"{order_id}/refund", f"{order_id}/charge")
    shop.release(f"{order_id}/release", f"{order_id}/reserve")


class TestRepeatedCalls:
    def test_a_repeated_call_gets_the_first_answer_and_changes_nothing(self, shop):
        first = shop.reserve("key", 1, LINES), shop.charge("pay", 1, "tok_visa", 500)

        second = shop.reserve("key", 1, LINES), shop.charge("pay", 1, "tok_visa", 500)

        assert second == first
        assert on_hand(shop) == {"MUG": 8, "RUG": 4}
        assert totals(shop)["charged"] == 500

    def test_one_key_counts_once_for_many_callers_at_the_same_moment(self, shop):
        with ThreadPoolExecutor(8) as threads:
            answers = set(threads.map(lambda _: shop.reserve("key", 1, LINES), range(8)))

        assert len(answers) == 1
        assert on_hand(shop) == {"MUG": 8, "RUG": 4}

    def test_another_key_is_another_call(self, shop):
        assert shop.charge("pay/0", 1, "tok_visa", 500) != shop.charge("pay/1", 1, "tok_visa", 500)
        assert totals(shop)["charged"] == 1000

    def test_an_undo_restores_everything_once(self, shop):
        complete(shop, 1)

        undo(shop, 1)
        undo(shop, 1)

        assert on_hand(shop) == {"MUG": 10, "RUG": 5}
        assert totals(shop)["refunded"] == totals(shop)["charged"] > 0
        assert totals(shop)["parcels"] == totals(shop)["pieces"] == 0

    def test_an_undo_before_its_call_changes_nothing_and_blocks_the_call(self, shop):
        undo(shop, 1)

        with pytest.raises(CallBlocked):
            shop.reserve("1/reserve", 1, LINES)
        with pytest.raises(CallBlocked):
            shop.charge("1/charge", 1, "tok_visa", 500)
        assert on_hand(shop) == {"MUG": 10, "RUG": 5}
        assert totals(shop)["charged"] == totals(shop)["refunded"] == 0


class TestRefusals:
    def test_a_failed_reservation_takes_nothing(self, shop):
        too_many: Any = [*LINES[:1], {"sku": "RUG", "quantity": 6, "price_cents": 1}]

        with pytest.raises(OutOfStock, match="fewer than 6 of RUG"):
            shop.reserve("key", 1, too_many)

        assert on_hand(shop) == {"MUG": 10, "RUG": 5}
        assert shop.reserve("key", 1, LINES), "a refused call may be repeated"

    def test_a_declined_card_is_not_charged(self, shop):
        with pytest.raises(CardDeclined, match="insufficient funds"):
            shop.charge("key", 1, "tok_declined_insufficient_funds", 500)

        assert totals(shop)["charged"] == 0

    def test_the_carrier_refuses_far_and_heavy_parcels(self, shop):
        heavy: Any = [{"sku": "RUG", "quantity": 4, "price_cents": 20000}]
        reservation_id = shop.reserve("key", 1, heavy)

        with pytest.raises(CarrierRefused, match="no delivery to NZ"):
            shop.book("book", 1, reservation_id, "NZ")
        with pytest.raises(CarrierRefused, match="36 kg"):
            shop.book("book", 1, reservation_id, "DE")
        assert totals(shop)["parcels"] == 0


class TestTasks:
    """The tasks are ordinary ones: called here without any saga or worker."""

    def test_the_tasks_do_an_order_and_undo_it(self, shop):
        reservation_id = tasks.reserve_stock(1, LINES)
        tasks.charge_card(1, "tok_visa", 22490)
        number = tasks.book_carrier(1, reservation_id, "DE")
        tasks.send_confirmation(1, "a@example.org", 22490, number)
        assert differences(shop, [order(1)], {1: COMPLETED}) == []

        tasks.cancel_booking(1)
        tasks.refund_card(1)
        tasks.release_stock(1)

        assert on_hand(shop) == {"MUG": 10, "RUG": 5}
        assert shop.rows("SELECT * FROM calls") == []

    def test_a_lost_answer_leaves_one_charge(self, shop):
        with pytest.raises(tasks.PaymentTimeout):
            tasks.charge_card(7, "tok_visa", 500)

        tasks.charge_card.apply((7, "tok_visa", 500)).get()

        assert totals(shop)["charged"] == 500


class TestBalance:
    @pytest.fixture
    def orders(self, shop):
        """Order 1 is completed, order 2 was undone, order 3 never got beyond its price."""
        complete(shop, 1)
        complete(shop, 2)
        undo(shop, 2)
        with shop.transaction() as db:
            db.execute("DELETE FROM confirmations WHERE order_id = 2")
        return [order(1), order(2), order(3)]

    def test_finds_nothing_when_all_is_well(self, shop, orders):
        assert differences(shop, orders, {1: COMPLETED, 2: COMPENSATED, 3: COMPENSATED}) == []

    @pytest.mark.parametrize(
        ("damage", "difference"),
        [
            ("UPDATE inventory SET on_hand = 7 WHERE sku = 'MUG'", "MUG: 3 pieces left the shelf"),
            ("UPDATE reservations SET state = 'open' WHERE order_id = 1", "MUG is still reserved"),
            ("DELETE FROM ledger WHERE kind = 'refund'", "order 2: 22490 cents were kept, 0 are"),
            ("UPDATE ledger SET cents = 1 WHERE order_id = 1", "order 1: 1 cents were kept, 22490"),
            ("UPDATE shipments SET state = 'booked'", "order 2: 1 parcels, 0 expected"),
            ("DELETE FROM shipments", "order 1: 0 parcels, 1 expected"),
            ("DELETE FROM confirmations", "order 1: 0 confirmations, 1 expected"),
            (
                "INSERT INTO confirmations (order_id) VALUES (1)",
                "order 1: 2 confirmations, 1 expected",
            ),
        ],
    )
    def test_finds_a_planted_difference(self, shop, orders, damage, difference):
        with shop.transaction() as db:
            db.execute(damage)

        found = differences(shop, orders, {1: COMPLETED, 2: COMPENSATED, 3: COMPENSATED})

        assert any(difference in sentence for sentence in found), found

    def test_finds_an_end_state_that_is_not_true(self, shop, orders):
        found = differences(shop, orders, {1: COMPENSATED, 2: COMPENSATED, 3: COMPLETED})

        assert any(sentence.startswith("order 1:") for sentence in found)
        assert any(sentence.startswith("order 3:") for sentence in found)


class TestOrders:
    def test_forty_two_of_the_sixty_orders_can_be_fulfilled(self, tmp_path):
        orders = [json.loads(line) for line in (EXAMPLE / "orders.jsonl").open(encoding="utf-8")]
        shop = ShopDatabase(tmp_path / "shop.sqlite")
        shop.create(json.loads((EXAMPLE / "inventory.json").read_text("utf-8")))

        ends = [self.end_of(shop, each) for each in orders]

        assert len(orders) == len({each["order_id"] for each in orders}) == 60
        assert ends.count("fulfilled") == 42
        assert ends.count("OutOfStock") == ends.count("CardDeclined") == 6
        assert ends.count("CarrierRefused") == 6

    def end_of(self, shop: ShopDatabase, each: dict[str, Any]) -> str:
        key = str(each["order_id"])
        try:
            reservation_id = shop.reserve(f"{key}/r", each["order_id"], each["lines"])
            shop.charge(f"{key}/c", each["order_id"], each["card"], total_cents(each))
            shop.book(f"{key}/b", each["order_id"], reservation_id, each["address"]["country"])
        except (OutOfStock, CardDeclined, CarrierRefused) as error:
            return type(error).__name__
        return "fulfilled"

    def test_the_database_refuses_to_sell_what_is_not_there(self, shop):
        with pytest.raises(sqlite3.IntegrityError), shop.transaction() as db:
            db.execute("UPDATE inventory SET on_hand = -1")
