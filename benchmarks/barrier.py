"""What a barrier adds to a transaction of two statements, on databases that wait for their disk."""

from __future__ import annotations

import random
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from psycopg import Connection
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.results import Row, Section, micros, ratio_row
from celery_saga.contrib.barrier import create_table, dbapi, sqlalchemy
from celery_saga.core import info
from tests.databases import Postgres

#: Kinds of goods; each transaction takes one piece of one of them, and notes that it did.
SHELF = 1000
SCHEMA = (
    "CREATE TABLE stock (sku INTEGER PRIMARY KEY, free INTEGER NOT NULL)",
    "CREATE TABLE reservations (id VARCHAR(32) PRIMARY KEY, sku INTEGER, quantity INTEGER)",
)
FILL = "INSERT INTO stock VALUES ({}, 1000000)"
UPDATE = "UPDATE stock SET free = free - 1 WHERE sku = {}"
INSERT = "INSERT INTO reservations VALUES ({}, {}, 1)"
#: What a step gives to its saga.
RESULT = {"reservation_id": "4f0c9d3e5b6a4d0f9a7e", "quantity": 1}

PLAIN, BARRIER, RESULT_KEPT, SKIPPED = "plain", "barrier", "barrier, result kept", "skipped"
VARIANTS = (PLAIN, BARRIER, RESULT_KEPT, SKIPPED)
#: Each in turn before anything is measured: drivers and SQLAlchemy prepare what comes again.
WARM_UP = 15


@dataclass
class Way:
    """One way to one database.

    Args:
        transaction: opens one on a connection that stays open; it is committed at the end.
        barrier: the barrier of that kind.
        run: runs a statement with its parameters.
        marks: of two parameters.
    """

    transaction: Callable[[], AbstractContextManager[Any]]
    barrier: Callable[[Any], AbstractContextManager[Any]]
    run: Callable[[Any, str, tuple[Any, ...]], Any]
    marks: tuple[str, str]

    def __post_init__(self) -> None:
        self.update, self.insert = UPDATE.format(self.marks[0]), INSERT.format(*self.marks)

    def fill(self, dialect: str) -> Way:
        """Make the tables."""
        with self.transaction() as session:
            for statement in (*SCHEMA, create_table(dialect)):
                self.run(session, statement, ())
            for sku in range(SHELF):
                self.run(session, FILL.format(self.marks[0]), (sku,))
        return self

    def seconds(self, variant: str) -> float:
        """The time of one transaction, from its begin to the end of its commit."""
        saga_id = uuid.uuid4().hex
        if variant == SKIPPED:
            self._deliver(saga_id, RESULT_KEPT)
        return self._deliver(saga_id, variant)

    def _barrier(self, session: Any, variant: str) -> AbstractContextManager[Any]:
        return nullcontext() if variant == PLAIN else self.barrier(session)

    def _deliver(self, saga_id: str, variant: str) -> float:
        key, sku = f"{saga_id}/reserve/f/0", random.randrange(SHELF)
        step = info.SagaInfo(saga_id, "checkout", "reserve", "f", 1, 0, key, key)
        token = info.current.set(lambda: step)
        began = time.perf_counter()
        with self.transaction() as session, self._barrier(session, variant) as first:
            if variant != SKIPPED:
                self.run(session, self.update, (sku,))
                self.run(session, self.insert, (saga_id, sku))
            if variant == RESULT_KEPT:
                first.result = RESULT
        spent = time.perf_counter() - began
        info.current.reset(token)
        return spent


def with_sqlite3(folder: Path, **pragmas: str) -> Way:
    """The driver of the standard library."""
    connection = sqlite3.connect(folder / f"{uuid.uuid4().hex}.sqlite")
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name} = {value}")

    @contextmanager
    def transaction() -> Iterator[sqlite3.Connection]:
        with connection:
            yield connection

    def run(db: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> Any:
        return db.execute(statement, values)

    return Way(transaction, dbapi.barrier, run, ("?", "?")).fill("sqlite")


def with_psycopg(server: Postgres) -> Way:
    """The plain driver."""
    connection = server.connect()

    @contextmanager
    def transaction() -> Iterator[Connection[Any]]:
        yield connection  # the driver begins one with the first statement
        connection.commit()

    def run(db: Connection[Any], statement: str, values: tuple[Any, ...]) -> Any:
        return db.execute(statement, values)

    return Way(transaction, dbapi.barrier, run, ("%s", "%s")).fill("postgresql")


def with_sqlalchemy(server: Postgres) -> Way:
    """Sessions over psycopg, on the tables that are there."""
    sessions = sessionmaker(create_engine(server.url))

    def run(session: Session, statement: str, values: tuple[Any, ...]) -> Any:
        return session.execute(text(statement), dict(zip(("one", "two"), values, strict=False)))

    return Way(sessions.begin, sqlalchemy.barrier, run, (":one", ":two"))


def measure(rounds: int, transactions: int, seed: int) -> Section:
    """Measure all ways.

    Args:
        rounds: how often each is measured.
        transactions: of each variant in a round.
        seed: of the order in which variants take their turns.
    """
    random.seed(seed)
    section = Section("barrier")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saga-barrier-")))
        ways = {
            "SQLite": with_sqlite3(folder),
            "SQLite, WAL": with_sqlite3(folder, journal_mode="WAL", synchronous="NORMAL"),
        }
        if Postgres.program is not None:
            server = Postgres()
            stack.callback(server.close)
            ways["PostgreSQL"] = with_psycopg(server)
            ways["PostgreSQL, SQLAlchemy"] = with_sqlalchemy(server)
        for name, way in ways.items():
            section.raw[name] = _rounds(way, rounds, transactions)
            section.rows += _rows(name, section.raw[name])
    return section


def _rows(name: str, taken: dict[str, list[float]]) -> Iterator[Row]:
    what, plain = f"{name}: two statements and a commit", taken[PLAIN]
    for variant in VARIANTS[1:]:
        target = "barrier" if variant == BARRIER else ""
        compared = f"{variant} / {PLAIN}"
        yield ratio_row(what, compared, plain, taken[variant], micros, target)
    for variant in (BARRIER, RESULT_KEPT):
        added = tuple(1e6 * (b - a) for a, b in zip(plain, taken[variant], strict=True))
        yield Row(f"{name}: microseconds more", f"{variant} - {PLAIN}", added)


def _rounds(way: Way, rounds: int, transactions: int) -> dict[str, list[float]]:
    """The median of each round; within one the variants take turns, transaction by transaction."""
    for variant in VARIANTS * WARM_UP:
        way.seconds(variant)
    taken: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for _ in range(transactions):
            for variant in random.sample(VARIANTS, len(VARIANTS)):
                times[variant].append(way.seconds(variant))
        for variant, found in times.items():
            taken[variant].append(median(found))
    return taken
