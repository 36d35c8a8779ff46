"""Enters a barrier, over any connection: the first delivery works, later ones get its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from celery_saga.contrib.barrier.statements import Statements
from celery_saga.core.context.codec import JSON, as_returned
from celery_saga.core.info import SagaInfo, step_info
from celery_saga.errors import BarrierPassedTwice, BlockedByCompensation, SetupError

R = TypeVar("R")

SECONDS_A_DAY = 86400


class Result(Protocol):
    """The part of a cursor that is used."""

    @property
    def rowcount(self) -> int:
        """Rows that were written."""

    def fetchall(self) -> Sequence[Any]:
        """Rows that were found."""


#: Runs one statement in the user's transaction.
Execute = Callable[[str, tuple[Any, ...]], Result]


class BarrierResult:
    """What a delivery gets from the barrier. It is true for the first one: the work is to be done.

    Attributes:
        result: what the step returns to its saga. The first delivery sets it, and it is kept when
            the ``with`` block ends; a later one finds it here, as Celery's JSON serializer brings
            it back. None if nothing was kept.
    """

    def __init__(self, first: bool, result: Any = None) -> None:
        self._first = first
        self.result = result
        self._forward: Callable[[], Any] = lambda: None

    def __bool__(self) -> bool:
        return self._first

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'first' if self._first else 'skipped'}>"

    @property
    def forward_result(self) -> Any:
        """In a compensation, the result that the step itself kept; read on demand, in the block.

        So a compensation knows what to take back also when the step's report was lost. None outside
        of a saga, in a step, and if the step kept nothing.
        """
        return self._forward()


#: The step that has entered a barrier in this run of its body.
_entered: ContextVar[SagaInfo | None] = ContextVar("celery_saga_barrier_entered", default=None)


@contextmanager
def enter_barrier(sql: Statements, execute: Execute) -> Iterator[BarrierResult]:
    """Enter the barrier, and keep the result at the end.

    Args:
        sql: the statements for the database.
        execute: runs one of them in the user's transaction.

    Raises:
        BlockedByCompensation: the step was compensated before.
        BarrierPassedTwice: the step has done its work in this database already.
        UnserializableValue: the result cannot be kept.
    """
    info = step_info()
    if info is None:
        yield BarrierResult(True)
        return
    entered = _Entry(sql, execute, info).enter()
    yield entered
    if entered and entered.result is not None:
        # As the saga will take it from the step that returns it.
        text = JSON.dumps(as_returned(entered.result, "result"), "result")
        execute(sql.keep, (text, _own_key(info)))


def run(barrier: AbstractContextManager[BarrierResult], work: Callable[[], R]) -> R:
    """Do the work in the barrier and keep its result; a skipped delivery gets the kept one."""
    with barrier as first:
        if first:
            first.result = work()
    return first.result  # type: ignore[no-any-return]


def purge(sql: Statements, execute: Execute, days: float) -> int:
    """Delete the rows that are older than so many days; returns how many there were."""
    return execute(sql.purge, (int(time.time() - days * SECONDS_A_DAY),)).rowcount


def _own_key(info: SagaInfo) -> str:
    """The key of the step's own row.

    That of a compensation has the round of the step that it compensates, not its own: what the
    engine compensates in a new round, because the step reported late, is compensated already.
    """
    if info.direction == "f":
        return info.idempotency_key
    return _compensation_of(info.forward_key)


def _compensation_of(key: str) -> str:
    head, _, turn = key.rpartition("/")
    return f"{head.removesuffix('f')}c/{turn}"


class _Entry:
    """One attempt to be the first delivery."""

    def __init__(self, sql: Statements, execute: Execute, info: SagaInfo) -> None:
        self._sql, self._execute, self._info = sql, execute, info
        self._own = _own_key(info)
        self._at = int(time.time())

    def enter(self) -> BarrierResult:
        if not self._insert(self._own):
            return self._known()
        _entered.set(self._info)
        if self._info.direction == "f":
            return BarrierResult(True)
        # The row of the step itself: the delivery that wrote it was first.
        if self._insert(self._info.forward_key):
            return BarrierResult(False)
        result = BarrierResult(True)
        result._forward = self._forward
        return result

    def _insert(self, key: str) -> bool:
        count = self._execute(self._sql.insert, (key, self._at)).rowcount
        if count not in (0, 1):  # psycopg within a pipeline, for one
            raise SetupError(f"the driver does not say whether the barrier's row is new ({count})")
        return count == 1

    def _known(self) -> BarrierResult:
        """What an earlier delivery left."""
        if _entered.get() is self._info:
            raise BarrierPassedTwice(self._own)
        forward = self._own if self._info.direction == "f" else self._info.forward_key
        compensation = _compensation_of(forward)
        rows = self._rows(forward, compensation)
        if self._own == forward and compensation in rows:
            raise BlockedByCompensation(forward)
        return BarrierResult(False, rows[self._own])

    def _forward(self) -> Any:
        key = self._info.forward_key
        return self._rows(key, key)[key]

    def _rows(self, *keys: str) -> dict[str, Any]:
        """The results of those of the keys that are there."""
        found = self._execute(self._sql.find, keys).fetchall()
        return {key: None if text is None else JSON.loads(text) for key, text in found}
