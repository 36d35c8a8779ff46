"""Where a step does its work in these tests: a database, and a way to talk to it."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections, transaction
from sqlalchemy import MetaData, create_engine, text
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from celery_saga.contrib.barrier import BarrierResult, create_table, dbapi
from celery_saga.contrib.barrier import django as django_barrier
from celery_saga.contrib.barrier import sqlalchemy as sqlalchemy_barrier
from tests.databases import Postgres

EFFECTS = "CREATE TABLE effects (saga_id VARCHAR(64), amount INTEGER)"
_numbers = itertools.count()


class Place:
    """One way to a database.

    Attributes:
        name: for the test's id.
        barrier: the barrier of that kind, over what :meth:`transaction` gives.
    """

    name = ""
    postgres = False

    def transaction(self) -> AbstractContextManager[Any]:
        """A transaction that is committed at the end, and rolled back by an error."""
        raise NotImplementedError

    def barrier(self, session: Any) -> AbstractContextManager[BarrierResult]:
        raise NotImplementedError

    def once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        raise NotImplementedError

    def purge(self, session: Any, days: float) -> int:
        raise NotImplementedError

    def run(self, session: Any, statement: str) -> Any:
        """Run a statement without parameters; gives its cursor."""
        raise NotImplementedError

    def amounts(self, saga_id: str) -> list[int]:
        """What was really done for a saga."""
        query = f"SELECT amount FROM effects WHERE saga_id = '{saga_id}' ORDER BY amount"
        with self.transaction() as session:
            return [row[0] for row in self.run(session, query).fetchall()]

    def rows(self, saga_id: str) -> list[str]:
        """The keys of the barrier's rows, without the saga's id."""
        query = f"SELECT step_key FROM celery_saga_barrier WHERE step_key LIKE '{saga_id}/%%'"
        with self.transaction() as session:
            found = self.run(session, query.replace("%%", self.percent)).fetchall()
        return sorted(row[0].partition("/")[2] for row in found)

    percent = "%"

    def saga(self) -> str:
        """A new saga's id."""
        return f"{self.name}-{next(_numbers)}"

    def effect(self, session: Any, saga_id: str, amount: int) -> None:
        self.run(session, f"INSERT INTO effects VALUES ('{saga_id}', {amount})")

    def __str__(self) -> str:
        return self.name


class _DbApi(Place):
    def barrier(self, session: Any) -> AbstractContextManager[BarrierResult]:
        return dbapi.barrier(session)

    def once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return dbapi.once(function)

    def purge(self, session: Any, days: float) -> int:
        return dbapi.purge(session, days)

    def run(self, session: Any, statement: str) -> Any:
        return session.execute(statement)


class Sqlite(_DbApi):
    name = "sqlite3"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "dbapi.sqlite"
        with self.transaction() as db:
            db.execute(create_table("sqlite"))
            db.execute(EFFECTS)

    def connect(self, **options: Any) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30, **options)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with closing(self.connect()) as db, db:
            yield db


class Psycopg(_DbApi):
    name = "psycopg"
    postgres = True

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self._database(server, "dbapi")
        with self.transaction() as db:
            db.execute(create_table("postgresql"))
            db.execute(EFFECTS)

    def _database(self, server: Postgres, name: str) -> None:
        with closing(server.connect(autocommit=True)) as db:
            db.execute(f"CREATE DATABASE {name}")

    def transaction(self) -> AbstractContextManager[Any]:
        return self.server.connect(dbname="dbapi")


class Alchemy(Place):
    """SQLAlchemy; sessions by default, connections if asked for."""

    def __init__(self, name: str, url: str, **options: Any) -> None:
        self.name, self.postgres = name, url.startswith("postgresql")
        # A connection of its own for each transaction: these tests use many threads.
        self.engine = create_engine(url, poolclass=NullPool, **options)
        self.sessions = sessionmaker(self.engine)
        metadata = MetaData()
        sqlalchemy_barrier.barrier_table(metadata)
        metadata.create_all(self.engine)
        with self.transaction() as session:
            self.run(session, EFFECTS)

    def transaction(self) -> AbstractContextManager[Any]:
        return self.sessions.begin()

    def barrier(self, session: Any) -> AbstractContextManager[BarrierResult]:
        return sqlalchemy_barrier.barrier(session)

    def once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return sqlalchemy_barrier.once(function)

    def purge(self, session: Any, days: float) -> int:
        return sqlalchemy_barrier.purge(session, days)

    def run(self, session: Session, statement: str) -> Any:
        return session.execute(text(statement))


class AlchemyConnection(Alchemy):
    """The same without sessions."""

    def transaction(self) -> AbstractContextManager[Any]:
        return self.engine.begin()


class Django(Place):
    """Django's ORM; the transaction is that of the barrier's own, or of one round it."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.name = f"django-{connections[alias].vendor}"
        self.postgres = connections[alias].vendor == "postgresql"
        call_command("migrate", database=alias, verbosity=0)
        with self.transaction() as session:
            self.run(session, EFFECTS)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        try:
            with transaction.atomic(self.alias):
                yield connections[self.alias]
        finally:
            connections[self.alias].close()

    def barrier(self, session: Any) -> AbstractContextManager[BarrierResult]:
        return django_barrier.barrier(self.alias)

    def once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return django_barrier.once(using=self.alias)(function)

    def purge(self, session: Any, days: float) -> int:
        return django_barrier.purge(days, self.alias)

    def run(self, session: Any, statement: str) -> Any:
        cursor = session.cursor()
        cursor.execute(statement)
        return cursor


def set_up_django(folder: Path, postgres: Postgres | None) -> None:
    """Configure Django in this process; Celery does not read it from the environment."""
    databases: dict[str, dict[str, Any]] = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(folder / "django.sqlite"),
            "OPTIONS": {"timeout": 30},
        }
    }
    if postgres is not None:
        with closing(postgres.connect(autocommit=True)) as db:
            db.execute("CREATE DATABASE django")
        databases["postgres"] = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "django",
            "USER": "saga",
            "HOST": str(postgres.folder),
        }
    settings.configure(
        DATABASES=databases,
        INSTALLED_APPS=["celery_saga.contrib.barrier.django"],
        USE_TZ=True,
    )
    django.setup()
