"""The barrier for SQLAlchemy 2: in the transaction of a ``Session`` or a ``Connection``.

::

    with Session.begin() as session, barrier(session) as first:
        if first:
            first.result = reserve(session, order_id)
    return first.result

The table goes into the ``MetaData`` of your models, where ``create_all`` and Alembic's
``--autogenerate`` find it::

    class Base(DeclarativeBase): ...

    barrier_table(Base.metadata)

If an error leaves the ``with`` block of the barrier, the caller must roll the transaction back, as
``Session.begin()`` does. With an ``AsyncSession``: ``await session.run_sync(work)``, where
``work`` is a function with :func:`once`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import BLANK_SCHEMA, BigInteger, Column, Connection, MetaData, String, Table, Text
from sqlalchemy.dialects.mysql import LONGTEXT, VARCHAR
from sqlalchemy.orm import Session, scoped_session

from celery_saga.contrib.barrier import entry
from celery_saga.contrib.barrier.dbapi import check_transaction
from celery_saga.contrib.barrier.entry import BarrierResult, Execute
from celery_saga.contrib.barrier.statements import (
    KEY_LENGTH,
    MYSQL_COLLATION,
    TABLE,
    Statements,
    statements,
)

P = ParamSpec("P")
R = TypeVar("R")
Bound = Session | scoped_session[Any] | Connection
S = TypeVar("S", bound=Bound)


def barrier(session: Bound) -> AbstractContextManager[BarrierResult]:
    """The barrier of the step that is running, in the transaction of a session or connection.

    Raises:
        SetupError: its database is not supported, or it commits each statement by itself.
    """
    connection = _connection(session)
    check_transaction(connection.connection.dbapi_connection)
    return entry.enter_barrier(*_statements_of(connection))


def once(function: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Decorate a function, whose first parameter is the session, to be called in the barrier.

    What it returns is kept. Where it is skipped, the kept result is returned in its place; for a
    compensation with nothing to compensate that is None.
    """

    @wraps(function)
    def call(session: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return entry.run(barrier(session), partial(function, session, *args, **kwargs))

    return call


def purge(session: Bound, days: float) -> int:
    """As :func:`celery_saga.contrib.barrier.dbapi.purge`."""
    return entry.purge(*_statements_of(_connection(session)), days)


def barrier_table(metadata: MetaData) -> Table:
    """Add the barrier's table to ``metadata``; the one that it has, if it has it already."""
    found = metadata.tables.get(TABLE)
    if found is not None:
        return found
    mysql_key = VARCHAR(KEY_LENGTH, charset="utf8mb4", collation=MYSQL_COLLATION)
    return Table(
        TABLE,
        metadata,
        Column(
            "step_key",
            String(KEY_LENGTH).with_variant(mysql_key, "mysql", "mariadb"),
            primary_key=True,
        ),
        Column("result", Text().with_variant(LONGTEXT(), "mysql", "mariadb")),
        Column("created_at", BigInteger, nullable=False),
        schema=BLANK_SCHEMA,
        sqlite_with_rowid=False,
    )


def _connection(session: Bound) -> Connection:
    return session if isinstance(session, Connection) else session.connection()


def _statements_of(connection: Connection) -> tuple[Statements, Execute]:
    # The driver's cursor, through SQLAlchemy: its events and logs see the statement, its compiler
    # has nothing to do.
    dialect = connection.dialect
    return statements(dialect.name, dialect.paramstyle), connection.exec_driver_sql
