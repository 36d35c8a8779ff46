"""Tasks that work in a database behind the barrier; a gate can be held before, in and after it.

``hold`` names gates as ``step/direction/before``, ``.../inside`` (the transaction) or
``.../after`` (it is committed, and nothing is reported).
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import psycopg
from celery import shared_task

from celery_saga import BlockedByCompensation, saga_info
from celery_saga.contrib.barrier.dbapi import barrier
from tests.worker.apps.journal import note, wait_at


@contextmanager
def _sqlite(path: str) -> Iterator[Any]:
    with closing(sqlite3.connect(path, timeout=30)) as db, db:
        yield db


def transaction() -> AbstractContextManager[Any]:
    """In the database that the test names."""
    where = os.environ["SAGA_TEST_BARRIER"]
    return psycopg.connect(where) if where.startswith("host=") else _sqlite(where)


def pause(hold: tuple[str, ...], where: str) -> None:
    info = saga_info()
    assert info is not None
    gate = f"{info.step}/{info.direction}/{where}"
    if gate in hold:
        note("waits")
        wait_at(gate)


def work(hold: tuple[str, ...], amount: int) -> Any:
    info = saga_info()
    assert info is not None
    note("began")
    pause(hold, "before")
    try:
        with transaction() as db, barrier(db) as first:
            if first:
                note("first", forward_result=first.forward_result)
                db.execute(f"INSERT INTO effects VALUES ('{info.saga_id}', {amount})")
                first.result = {"number": uuid.uuid4().hex}
            pause(hold, "inside")
    except BlockedByCompensation:
        note("blocked")
        raise
    note("committed", first=bool(first), result=first.result)
    pause(hold, "after")
    return first.result


@shared_task(acks_late=True)
def take(hold=()):
    return work(hold, 1)


@shared_task
def take_at_most_once(hold=()):
    return work(hold, 1)


@shared_task(acks_late=True)
def put_back(hold=()):
    return work(hold, -1)


@shared_task(acks_late=True)
def refuse():
    raise ValueError("refused")


@shared_task(acks_late=True, autoretry_for=(Exception,), default_retry_delay=0)
def take_twice():
    work((), 1)
    return work((), 1)
