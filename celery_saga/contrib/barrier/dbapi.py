"""The barrier on plain database connections: ``sqlite3`` and ``psycopg``.

::

    with closing(connect()) as db, db, barrier(db) as first:
        if first:
            db.execute("UPDATE stock SET free = free - 1 WHERE sku = ?", (sku,))

If an error leaves the ``with`` block of the barrier, the caller must roll the transaction back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from celery_saga.contrib.barrier import entry
from celery_saga.contrib.barrier.entry import BarrierResult, Execute
from celery_saga.contrib.barrier.statements import Statements, statements
from celery_saga.errors import SetupError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class _Driver(NamedTuple):
    """What is known of a driver."""

    sql: Statements
    cursor: Callable[[Any], Any]  #: one that gives tuples, whatever the connection's own give
    autocommits: Callable[[Any], bool]  #: whether the next statement would commit by itself


def _sqlite_cursor(connection: Any) -> Any:
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor


def _sqlite_autocommits(connection: Any) -> bool:
    if connection.in_transaction:
        return False
    mode = getattr(connection, "autocommit", -1)  # from Python 3.12 on True, False, or as before
    return bool(connection.isolation_level is None if mode == -1 else mode)


def _psycopg_cursor(connection: Any) -> Any:
    return connection.cursor(row_factory=sys.modules["psycopg"].rows.tuple_row)


def _psycopg_autocommits(connection: Any) -> bool:
    return bool(connection.autocommit and connection.info.transaction_status == 0)  # it is idle


#: By the module from which a connection's class comes.
_DRIVERS = {
    "sqlite3": _Driver(statements("sqlite", "qmark"), _sqlite_cursor, _sqlite_autocommits),
    "psycopg": _Driver(statements("postgresql", "format"), _psycopg_cursor, _psycopg_autocommits),
}


def barrier(connection: Any) -> AbstractContextManager[BarrierResult]:
    """The barrier of the step that is running, in the connection's transaction.

    Args:
        connection: of ``sqlite3`` or ``psycopg``, or of a class derived from theirs.

    Raises:
        SetupError: another kind of connection; or one that commits each statement by itself.
    """
    check_transaction(connection)
    return entry.enter_barrier(*_statements_of(connection))


def once(function: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """Decorate a function, whose first parameter is the connection, to be called in the barrier.

    What it returns is kept. Where it is skipped, the kept result is returned in its place; for a
    compensation with nothing to compensate that is None.
    """

    @wraps(function)
    def call(connection: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return entry.run(barrier(connection), partial(function, connection, *args, **kwargs))

    return call


def purge(connection: Any, days: float) -> int:
    """Delete rows older than so many days, in the connection's transaction; returns how many.

    A row has to stay for as long as a message of its saga may still come, and while its saga is
    stuck and could yet be compensated: what comes without its row is done again, or not
    compensated.
    """
    return entry.purge(*_statements_of(connection), days)


def check_transaction(connection: Any) -> None:
    """Refuse a connection on which the row would be committed before the work is done.

    Raises:
        SetupError: it is in autocommit mode, and in no transaction.
    """
    kind: Any = type(connection)
    driver = _known(kind)
    if driver is not None and driver.autocommits(connection):
        raise SetupError(
            "the barrier needs a transaction, and this connection commits each statement by "
            "itself: begin one first, or turn autocommit off"
        )


def _statements_of(connection: Any) -> tuple[Statements, Execute]:
    kind: Any = type(connection)
    driver = _known(kind)
    if driver is None:
        raise SetupError(
            f"no barrier for a {kind.__module__}.{kind.__qualname__}: expected a connection of "
            f"{' or '.join(_DRIVERS)}; for others there is celery_saga.contrib.barrier.sqlalchemy"
        )

    def execute(text: str, parameters: tuple[Any, ...]) -> Any:
        cursor = driver.cursor(connection)
        cursor.execute(text, parameters)
        return cursor

    return driver.sql, execute


@cache
def _known(kind: type) -> _Driver | None:
    names = (cls.__module__.partition(".")[0] for cls in kind.__mro__)
    return next((_DRIVERS[name] for name in names if name in _DRIVERS), None)
