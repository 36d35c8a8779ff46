"""The barrier for Django: ``transaction.atomic`` and an app with its migration.

::

    INSTALLED_APPS = [..., "celery_saga.contrib.barrier.django"]

    @shared_task(acks_late=True)
    @once
    def reserve(order_id):
        ...

or, for a part of a task::

    with barrier() as first:
        if first:
            first.result = ...

Either is one ``atomic`` block. Within another one it is a savepoint of it, and its work is
committed with the outer one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, overload

from django.db import DEFAULT_DB_ALIAS, connections, transaction

from celery_saga.contrib.barrier import entry
from celery_saga.contrib.barrier.entry import BarrierResult, Execute
from celery_saga.contrib.barrier.statements import Statements, statements
from celery_saga.errors import SetupError

#: MySQL is not among them: the migration's column would not distinguish ``order-A`` and
#: ``order-a``.
VENDORS = ("postgresql", "sqlite")

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def barrier(using: str = DEFAULT_DB_ALIAS) -> Iterator[BarrierResult]:
    """The barrier of the step that is running, in an ``atomic`` block of its own.

    Args:
        using: the alias of the database in which the step works.

    Raises:
        SetupError: that database is not supported.
    """
    way = _statements_of(using)
    with transaction.atomic(using), entry.enter_barrier(*way) as first:
        yield first


@overload
def once(function: Callable[P, R]) -> Callable[P, R]:
    """In the default database."""


@overload
def once(*, using: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """In another one."""


def once(function: Any = None, *, using: str = DEFAULT_DB_ALIAS) -> Any:
    """Call the function in the barrier; it goes below ``@shared_task``.

    What it returns is kept. Where it is skipped, the kept result is returned in its place; for a
    compensation with nothing to compensate that is None.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return entry.run(barrier(using), partial(function, *args, **kwargs))

        return call

    return decorate if function is None else decorate(function)


def purge(days: float, using: str = DEFAULT_DB_ALIAS) -> int:
    """As :func:`celery_saga.contrib.barrier.dbapi.purge`."""
    return entry.purge(*_statements_of(using), days)


def _statements_of(using: str) -> tuple[Statements, Execute]:
    connection = connections[using]
    if connection.vendor not in VENDORS:
        raise SetupError(
            f"no barrier for Django's database {using!r}: expected one of {', '.join(VENDORS)}, "
            f"found {connection.vendor}"
        )

    def execute(text: str, parameters: tuple[Any, ...]) -> Any:
        cursor = connection.cursor()
        cursor.execute(text, parameters)
        return cursor

    return statements(connection.vendor, "format"), execute
