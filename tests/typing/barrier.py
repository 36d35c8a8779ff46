"""The types that users of the barrier see; checked by mypy, never run."""

import sqlite3

from sqlalchemy import MetaData, Table
from sqlalchemy.orm import Session
from typing_extensions import assert_type

from celery_saga.contrib.barrier import BarrierResult, dbapi
from celery_saga.contrib.barrier import django as django_barrier
from celery_saga.contrib.barrier import sqlalchemy as sqlalchemy_barrier


@sqlalchemy_barrier.once
def reserve(session: Session, sku: str, quantity: int = 1) -> str:
    return "r-1"


@dbapi.once
def release(connection: sqlite3.Connection, reservation_id: str) -> None: ...


@django_barrier.once
def charge(total: int) -> int:
    return total


@django_barrier.once(using="payments")
def refund(total: int) -> int:
    return total


def use(session: Session, connection: sqlite3.Connection) -> None:
    assert_type(reserve(session, "kettle", quantity=2), str)
    assert_type(release(connection, "r-1"), None)
    assert_type(charge(total=3), int)
    assert_type(refund(3), int)
    with sqlalchemy_barrier.barrier(session) as first:
        assert_type(first, BarrierResult)
    with dbapi.barrier(connection) as first, django_barrier.barrier("payments") as first:
        pass
    assert_type(sqlalchemy_barrier.purge(session, days=90), int)
    assert_type(django_barrier.purge(90), int)
    assert_type(sqlalchemy_barrier.barrier_table(MetaData()), Table)
