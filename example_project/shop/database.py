"""The shop's database: one SQLite file that all worker processes share.

It also plays the parts of the warehouse, the card gateway and the carrier. All that a step of a
saga does here goes through a barrier, in the transaction of the work itself:

- a step that comes again changes nothing and gets the first one's answer;
- a compensation whose step never arrived changes nothing and blocks it, so that the step is refused
  should it arrive later;
- a compensation knows what its step did, also if the step's answer was lost.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from celery_saga.contrib.barrier import create_table
from celery_saga.contrib.barrier.dbapi import barrier, once

T = TypeVar("T")

#: Seconds that a transaction waits for another one to end.
BUSY_TIMEOUT = 15.0
#: Where the carrier delivers, and the heaviest parcel that it takes (grams).
CARRIER_COUNTRIES = frozenset({"AT", "BE", "CH", "DE", "DK", "ES", "FR", "IT", "NL", "PL", "SE"})
CARRIER_LIMIT_GRAMS = 31_500

SCHEMA = """
CREATE TABLE inventory (
    sku TEXT PRIMARY KEY, title TEXT, grams INTEGER,
    initial INTEGER, on_hand INTEGER CHECK (on_hand >= 0)
);
CREATE TABLE reservations (
    id TEXT, order_id INTEGER, sku TEXT REFERENCES inventory, quantity INTEGER,
    state TEXT CHECK (state IN ('open', 'shipped', 'released')), PRIMARY KEY (id, sku)
);
CREATE TABLE ledger (
    id TEXT PRIMARY KEY, order_id INTEGER, kind TEXT CHECK (kind IN ('charge', 'refund')),
    cents INTEGER
);
CREATE TABLE shipments (
    id TEXT PRIMARY KEY, order_id INTEGER, reservation_id TEXT, grams INTEGER,
    state TEXT CHECK (state IN ('booked', 'cancelled'))
);
CREATE TABLE confirmations (id INTEGER PRIMARY KEY, order_id INTEGER, email TEXT, text TEXT);
CREATE TABLE calls (id INTEGER PRIMARY KEY, order_id INTEGER, task TEXT, process_group INTEGER);
"""


class Line(TypedDict):
    """One line of an order; the price is in cents for one piece."""

    sku: str
    quantity: int
    price_cents: int


class OutOfStock(Exception):
    """There are not enough pieces on the shelf."""


class CardDeclined(Exception):
    """The bank refuses the payment."""


class CarrierRefused(Exception):
    """The carrier does not take this parcel."""


class ShopDatabase:
    """The shop's tables in the SQLite file at ``path``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def from_environment(cls) -> ShopDatabase:
        """The database that the variable ``SHOP_DATABASE`` names; KeyError if it is not set."""
        return cls(os.environ["SHOP_DATABASE"])

    def create(self, inventory: Iterable[Mapping[str, Any]]) -> None:
        """Make the tables and fill the shelves: rows of ``sku, title, grams, on_hand``."""
        with closing(self._connect()) as connection, connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
            connection.execute(create_table("sqlite"))
            connection.executemany(
                "INSERT INTO inventory VALUES (:sku, :title, :grams, :on_hand, :on_hand)", inventory
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None)
        connection.row_factory = sqlite3.Row
        # What is committed survives the death of a process all the same; only the loss of power
        # could take it back, and an example need not wait for the disk because of that.
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction that no other writer overlaps; an exception rolls it back."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """What a SELECT finds."""
        with closing(self._connect()) as connection:
            return connection.execute(query, values).fetchall()

    def reserve(self, order_id: int, lines: list[Line]) -> str:
        """Take goods off the shelf for an order; OutOfStock if there are too few."""

        def work(db: sqlite3.Connection) -> str:
            reservation_id = f"res-{secrets.token_hex(4)}"
            for line in lines:
                taken = db.execute(
                    "UPDATE inventory SET on_hand = on_hand - :quantity"
                    " WHERE sku = :sku AND on_hand >= :quantity",
                    line,
                )
                if not taken.rowcount:
                    raise OutOfStock(f"fewer than {line['quantity']} of {line['sku']}")
                db.execute(
                    "INSERT INTO reservations VALUES (?, ?, ?, ?, 'open')",
                    (reservation_id, order_id, line["sku"], line["quantity"]),
                )
            return reservation_id

        return self._once(work)

    def release(self, reservation_id: str | None = None) -> None:
        """Compensate :meth:`reserve`; without an id, what this saga's step reserved."""

        def work(db: sqlite3.Connection, reservation_id: str) -> None:
            db.execute(
                "UPDATE inventory SET on_hand = on_hand + (SELECT quantity FROM reservations"
                " WHERE id = :id AND sku = inventory.sku)"
                " WHERE sku IN (SELECT sku FROM reservations WHERE id = :id AND state = 'open')",
                {"id": reservation_id},
            )
            _move_goods(db, reservation_id, "open", "released")

        self._compensate(reservation_id, work)

    def charge(self, order_id: int, card: str, cents: int) -> str:
        """Charge a card; CardDeclined if its bank refuses."""

        def work(db: sqlite3.Connection) -> str:
            if card.startswith("tok_declined"):
                raise CardDeclined(card.removeprefix("tok_declined_").replace("_", " "))
            return _book_money(db, order_id, "charge", cents)

        return self._once(work)

    def refund(self, payment_id: str | None = None) -> None:
        """Compensate :meth:`charge`; without an id, what this saga's step charged."""

        def work(db: sqlite3.Connection, payment_id: str) -> None:
            query = "SELECT order_id, cents FROM ledger WHERE id = ?"
            payment = db.execute(query, (payment_id,)).fetchone()
            _book_money(db, payment["order_id"], "refund", payment["cents"])

        self._compensate(payment_id, work)

    def book(self, order_id: int, reservation_id: str, country: str) -> str:
        """Hand reserved goods to the carrier; CarrierRefused for what it does not take."""

        def work(db: sqlite3.Connection) -> str:
            if country not in CARRIER_COUNTRIES:
                raise CarrierRefused(f"no delivery to {country}")
            (grams,) = db.execute(
                "SELECT sum(grams * quantity) FROM reservations JOIN inventory USING (sku)"
                " WHERE id = ? AND state = 'open'",
                (reservation_id,),
            ).fetchone()
            if grams is None:
                raise CarrierRefused(f"nothing is reserved under {reservation_id}")
            if grams > CARRIER_LIMIT_GRAMS:
                raise CarrierRefused(f"{grams / 1000:g} kg are too heavy")
            number = f"trk-{secrets.token_hex(4)}"
            row = (number, order_id, reservation_id, grams)
            db.execute("INSERT INTO shipments VALUES (?, ?, ?, ?, 'booked')", row)
            _move_goods(db, reservation_id, "open", "shipped")
            return number

        return self._once(work)

    def cancel(self, number: str | None = None) -> None:
        """Compensate :meth:`book`: the goods are merely reserved again.

        Without a number, what this saga's step booked.
        """

        def work(db: sqlite3.Connection, number: str) -> None:
            query = "SELECT reservation_id FROM shipments WHERE id = ?"
            (reservation_id,) = db.execute(query, (number,)).fetchone()
            db.execute("UPDATE shipments SET state = 'cancelled' WHERE id = ?", (number,))
            _move_goods(db, reservation_id, "shipped", "open")

        self._compensate(number, work)

    def confirm(self, order_id: int, email: str, text: str) -> None:
        """Send the customer a message."""

        def work(db: sqlite3.Connection) -> None:
            columns = "INSERT INTO confirmations (order_id, email, text) VALUES (?, ?, ?)"
            db.execute(columns, (order_id, email, text))

        self._once(work)

    @contextmanager
    def call_under_way(self, order_id: int, task: str) -> Iterator[None]:
        """Record a call while it lasts; the records of a killed worker stay."""
        columns = "INSERT INTO calls (order_id, task, process_group) VALUES (?, ?, ?)"
        with self.transaction() as db:
            note = db.execute(columns, (order_id, task, os.getpgrp())).lastrowid
        try:
            yield
        finally:
            with self.transaction() as db:
                db.execute("DELETE FROM calls WHERE id = ?", (note,))

    def calls_of(self, process_group: int) -> list[tuple[int, str]]:
        """Order and task of the calls that a worker has under way, or had when it died."""
        query = "SELECT order_id, task FROM calls WHERE process_group = ? ORDER BY id"
        return [(row["order_id"], row["task"]) for row in self.rows(query, process_group)]

    def _once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self.transaction() as db:
            return once(work)(db)

    def _compensate(
        self, what: str | None, work: Callable[[sqlite3.Connection, Any], None]
    ) -> None:
        with self.transaction() as db, barrier(db) as first:
            if first:
                work(db, what or first.forward_result)


def _book_money(db: sqlite3.Connection, order_id: int, kind: str, cents: int) -> str:
    entry = f"{kind[:2]}-{secrets.token_hex(4)}"
    db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?)", (entry, order_id, kind, cents))
    return entry


def _move_goods(db: sqlite3.Connection, reservation_id: str, before: str, after: str) -> None:
    db.execute(
        "UPDATE reservations SET state = ? WHERE id = ? AND state = ?",
        (after, reservation_id, before),
    )
