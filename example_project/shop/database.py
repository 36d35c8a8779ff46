"""The shop's database: one SQLite file that all worker processes share.

It also plays the parts of the warehouse, the card gateway and the carrier. Each of them accepts an
idempotency key with a call, and keeps two promises that make a saga safe:

- a call that comes again under its key changes nothing and gets the first call's answer;
- an undo whose call never arrived changes nothing and blocks that key, so that the call is refused
  should it arrive later.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar

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
CREATE TABLE operations (
    key TEXT PRIMARY KEY, state TEXT CHECK (state IN ('done', 'blocked')), answer TEXT
);
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


class CallBlocked(Exception):
    """The call was undone before it arrived."""


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

    def reserve(self, key: str, order_id: int, lines: list[Line]) -> str:
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

        return self._once(key, work)

    def release(self, key: str, reserve_key: str) -> None:
        """Undo :meth:`reserve`."""

        def work(db: sqlite3.Connection, reservation_id: str) -> None:
            db.execute(
                "UPDATE inventory SET on_hand = on_hand + (SELECT quantity FROM reservations"
                " WHERE id = :id AND sku = inventory.sku)"
                " WHERE sku IN (SELECT sku FROM reservations WHERE id = :id AND state = 'open')",
                {"id": reservation_id},
            )
            _move_goods(db, reservation_id, "open", "released")

        self._undo(key, reserve_key, work)

    def charge(self, key: str, order_id: int, card: str, cents: int) -> str:
        """Charge a card; CardDeclined if its bank refuses."""

        def work(db: sqlite3.Connection) -> str:
            if card.startswith("tok_declined"):
                raise CardDeclined(card.removeprefix("tok_declined_").replace("_", " "))
            return _book_money(db, order_id, "charge", cents)

        return self._once(key, work)

    def refund(self, key: str, charge_key: str) -> None:
        """Undo :meth:`charge`."""

        def work(db: sqlite3.Connection, payment_id: str) -> None:
            query = "SELECT order_id, cents FROM ledger WHERE id = ?"
            payment = db.execute(query, (payment_id,)).fetchone()
            _book_money(db, payment["order_id"], "refund", payment["cents"])

        self._undo(key, charge_key, work)

    def book(self, key: str, order_id: int, reservation_id: str, country: str) -> str:
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

        return self._once(key, work)

    def cancel(self, key: str, book_key: str) -> None:
        """Undo :meth:`book`: the goods are merely reserved again."""

        def work(db: sqlite3.Connection, number: str) -> None:
            query = "SELECT reservation_id FROM shipments WHERE id = ?"
            (reservation_id,) = db.execute(query, (number,)).fetchone()
            db.execute("UPDATE shipments SET state = 'cancelled' WHERE id = ?", (number,))
            _move_goods(db, reservation_id, "shipped", "open")

        self._undo(key, book_key, work)

    def confirm(self, key: str, order_id: int, email: str, text: str) -> None:
        """Send the customer a message."""

        def work(db: sqlite3.Connection) -> None:
            columns = "INSERT INTO confirmations (order_id, email, text) VALUES (?, ?, ?)"
            db.execute(columns, (order_id, email, text))

        self._once(key, work)

    @contextmanager
    def call_under_way(self, order_id: int, task: str) -> Iterator[None]:
        """Leave a note of a call while it lasts; a killed worker's notes stay."""
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

    def _once(self, key: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """Work under a key that counts once; the key and the work are one transaction."""
        with self.transaction() as db:
            if before := _operation(db, key):
                if before["state"] == "blocked":
                    raise CallBlocked(f"{key} was undone before it arrived")
                known: T = json.loads(before["answer"])
                return known
            answer = work(db)
            _record(db, key, "done", answer)
            return answer

    def _undo(self, key: str, of: str, work: Callable[[sqlite3.Connection, Any], None]) -> None:
        """Undo the work under the key ``of``, or see to it that it can never happen."""
        with self.transaction() as db:
            if _operation(db, key):
                return
            forward = _operation(db, of)
            if forward is None:
                _record(db, of, "blocked", None)
            elif forward["state"] == "done":
                work(db, json.loads(forward["answer"]))
            _record(db, key, "done", None)


def _operation(db: sqlite3.Connection, key: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        "SELECT state, answer FROM operations WHERE key = ?", (key,)
    ).fetchone()
    return row


def _record(db: sqlite3.Connection, key: str, state: str, answer: Any) -> None:
    db.execute("INSERT INTO operations VALUES (?, ?, ?)", (key, state, json.dumps(answer)))


def _book_money(db: sqlite3.Connection, order_id: int, kind: str, cents: int) -> str:
    entry = f"{kind[:2]}-{secrets.token_hex(4)}"
    db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?)", (entry, order_id, kind, cents))
    return entry


def _move_goods(db: sqlite3.Connection, reservation_id: str, before: str, after: str) -> None:
    db.execute(
        "UPDATE reservations SET state = ? WHERE id = ? AND state = ?",
        (after, reservation_id, before),
    )
