"""The example's shop by itself: what makes its calls safe to repeat, and the balance check."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import example_project
from celery_saga import BlockedByCompensation, SagaStatus
from example_project.balance import differences, total_cents, totals
from example_project.shop import tasks
from example_project.shop.database import (
    CardDeclined,
    CarrierRefused,
    OutOfStock,
    ShopDatabase,
)
from tests.helpers import delivery

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


@contextmanager
def step(name: str, order_id: int = 1) -> Iterator[None]:
    """The body of a step of the order's saga."""
    with delivery(f"order-{order_id}", step=name):
        yield


@contextmanager
def compensation_of(name: str, order_id: int = 1) -> Iterator[None]:
    with delivery(f"order-{order_id}", "c", step=name):
        yield


def complete(shop: ShopDatabase, order_id: int) -> None:
    """What the checkout does when all goes well."""
    with step("reserve", order_id):
        reservation_id = shop.reserve(order_id, LINES)
    with step("charge", order_id):
        shop.charge(order_id, "tok_visa", total_cents(order(order_id)))
    with step("book", order_id):
        shop.book(order_id, reservation_id, "DE")
    with step("send", order_id):
        shop.confirm(order_id, "a@example.org", "Thank you")


def compensate(shop: ShopDatabase, order_id: int) -> None:
    """What it does when the answers were lost."""
    with compensation_of("book", order_id):
        shop.cancel()
    with compensation_of("charge", order_id):
        shop.refund()
    with compensation_of("reserve", order_id):
        shop.release()


class TestRepeatedCalls:
    def reserve(self, shop: ShopDatabase) -> str:
        with step("reserve"):
            return shop.reserve(1, LINES)

    def charge(self, shop: ShopDatabase, order_id: int = 1) -> str:
        with step("charge", order_id):
            return shop.charge(1, "tok_visa", 500)

    def test_a_repeated_call_gets_the_first_answer_and_changes_nothing(self, shop):
        first = self.reserve(shop), self.charge(shop)

        second = self.reserve(shop), self.charge(shop)

        assert second == first
        assert on_hand(shop) == {"MUG": 8, "RUG": 4}
        assert totals(shop)["charged"] == 500

    def test_one_step_counts_once_for_many_callers_at_the_same_moment(self, shop):
        with ThreadPoolExecutor(8) as threads:
            answers = set(threads.map(lambda _: self.reserve(shop), range(8)))

        assert len(answers) == 1
        assert on_hand(shop) == {"MUG": 8, "RUG": 4}

    def test_another_saga_is_another_call(self, shop):
        assert self.charge(shop, 1) != self.charge(shop, 2)
        assert totals(shop)["charged"] == 1000

    def test_outside_of_a_saga_each_call_counts(self, shop):
        assert shop.charge(1, "tok_visa", 500) != shop.charge(1, "tok_visa", 500)
        assert totals(shop)["charged"] == 1000

    def test_a_compensation_restores_everything_once(self, shop):
        complete(shop, 1)

        compensate(shop, 1)
        compensate(shop, 1)

        assert on_hand(shop) == {"MUG": 10, "RUG": 5}
        assert totals(shop)["refunded"] == totals(shop)["charged"] > 0
        assert totals(shop)["parcels"] == totals(shop)["pieces"] == 0

    def test_a_compensation_before_its_call_changes_nothing_and_blocks_the_call(self, shop):
        compensate(shop, 1)

        with pytest.raises(BlockedByCompensation):
            self.reserve(shop)
        with pytest.raises(BlockedByCompensation):
            self.charge(shop)
        assert on_hand(shop) == {"MUG": 10, "RUG": 5}
        assert totals(shop)["charged"] == totals(shop)["refunded"] == 0


class TestRefusals:
    def reserve(self, shop: ShopDatabase, lines: Any) -> str:
        with step("reserve"):
            return shop.reserve(1, lines)

    def test_a_failed_reservation_takes_nothing(self, shop):
        too_many: Any = [*LINES[:1], {"sku": "RUG", "quantity": 6, "price_cents": 1}]

        with pytest.raises(OutOfStock, match="fewer than 6 of RUG"):
            self.reserve(shop, too_many)

        assert on_hand(shop) == {"MUG": 10, "RUG": 5}
        assert self.reserve(shop, LINES), "a refused call may be repeated"

    def test_a_declined_card_is_not_charged(self, shop):
        with pytest.raises(CardDeclined, match="insufficient funds"):
            shop.charge(1, "tok_declined_insufficient_funds", 500)

        assert totals(shop)["charged"] == 0

    def test_the_carrier_refuses_far_and_heavy_parcels(self, shop):
        heavy: Any = [{"sku": "RUG", "quantity": 4, "price_cents": 20000}]
        reservation_id = shop.reserve(1, heavy)

        with pytest.raises(CarrierRefused, match="no delivery to NZ"):
            shop.book(1, reservation_id, "NZ")
        with pytest.raises(CarrierRefused, match="36 kg"):
            shop.book(1, reservation_id, "DE")
        assert totals(shop)["parcels"] == 0


class TestTasks:
    """The tasks are ordinary ones: called here without any saga or worker."""

    def test_the_tasks_do_an_order_and_take_it_back(self, shop):
        reservation_id = tasks.reserve_stock(1, LINES)
        payment_id = tasks.charge_card(1, "tok_visa", 22490)
        number = tasks.book_carrier(1, reservation_id, "DE")
        tasks.send_confirmation(1, "a@example.org", 22490, number)
        assert differences(shop, [order(1)], {1: COMPLETED}) == []

        tasks.cancel_booking(1, number)
        tasks.refund_card(1, payment_id)
        tasks.release_stock(1, reservation_id)

        assert on_hand(shop) == {"MUG": 10, "RUG": 5}
        assert shop.rows("SELECT * FROM calls") == []

    def test_a_lost_answer_leaves_one_charge(self, shop):
        with step("charge", 7), pytest.raises(tasks.PaymentTimeout):
            tasks.charge_card(7, "tok_visa", 500)

        tasks.charge_card.push_request(retries=1)
        try:
            with step("charge", 7):
                tasks.charge_card.run(7, "tok_visa", 500)
        finally:
            tasks.charge_card.pop_request()

        assert totals(shop)["charged"] == 500


class TestBalance:
    @pytest.fixture
    def orders(self, shop):
        """Order 1 is completed, order 2 was compensated, order 3 never got beyond its price."""
        complete(shop, 1)
        complete(shop, 2)
        compensate(shop, 2)
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
        try:
            reservation_id = shop.reserve(each["order_id"], each["lines"])
            shop.charge(each["order_id"], each["card"], total_cents(each))
            shop.book(each["order_id"], reservation_id, each["address"]["country"])
        except (OutOfStock, CardDeclined, CarrierRefused) as error:
            return type(error).__name__
        return "fulfilled"

    def test_the_database_refuses_to_sell_what_is_not_there(self, shop):
        with pytest.raises(sqlite3.IntegrityError), shop.transaction() as db:
            db.execute("UPDATE inventory SET on_hand = -1")
