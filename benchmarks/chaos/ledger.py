"""What the bodies did: lines in one list on a server of its own, which has no faults.

Only bodies write it, so it is the truth about effects, whatever the engine reports.
The server puts all lines in one order.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple

import redis

from benchmarks.chaos.shapes import step_name, step_number
from celery_saga import saga_info
from celery_saga.core.info import SagaInfo

#: Environment variable with the ledger's URL.
LEDGER = "SAGA_CHAOS_LEDGER"

#: The list of lines.
LINES = "lines"

#: The directions in which steps run.
FORWARD, COMPENSATION = "f", "c"

#: Lines that are fetched at once.
PAGE = 20_000
#: Lines that show what runs at this moment.
TAIL = 100

#: An effect that a service takes only once for a key, and otherwise declines.
_ONCE = """
if redis.call('SET', KEYS[2], 1, 'NX') then redis.call('RPUSH', KEYS[1], ARGV[1]) return 1 end
redis.call('RPUSH', KEYS[1], ARGV[2])
return 0
"""


class Line(NamedTuple):
    """What one body did at one moment.

    Args:
        saga_id: whose step it is.
        step: its number, see :mod:`benchmarks.chaos.shapes`.
        direction: ``"f"`` or ``"c"``.
        what: ``began``, ``effect``, ``ended`` (it is about to return); ``declined``, ``failed``,
            ``retried`` (it is about to raise, and left no effect).
        key: the idempotency key.
        forward_key: the key of the step itself.
        pid: of the process that ran it.
        worker: of that process's parent, the worker's main process.
        at: ``time.monotonic()``, one clock for all processes of a machine.
    """

    saga_id: str
    step: int
    direction: str
    what: str
    key: str
    forward_key: str
    pid: int
    worker: int
    at: float


#: Whose body is running, where no saga says so.
_acting: ContextVar[SagaInfo | None] = ContextVar("acting", default=None)


def who() -> SagaInfo:
    """The step whose body is running."""
    found = _acting.get() or saga_info()
    assert found is not None
    return found


@contextmanager
def acting(me: Sequence[Any] | None) -> Iterator[None]:
    """Run a body for the saga, step and direction in ``me``, which a plain task was given."""
    if me is None:
        yield
        return
    saga_id, step, direction = me
    forward_key = f"{saga_id}/{step_name(step)}/f/0"
    key = f"{saga_id}/{step_name(step)}/{direction}/0"
    info = SagaInfo(saga_id, "chain", step_name(step), direction, 1, 0, key, forward_key)
    token = _acting.set(info)
    try:
        yield
    finally:
        _acting.reset(token)


@lru_cache
def _client(pid: int) -> redis.Redis:
    return redis.Redis.from_url(os.environ[LEDGER])


def _line(what: str) -> str:
    info = who()
    step = step_number(info.step)
    keys = (info.idempotency_key, info.forward_key)
    process = (os.getpid(), os.getppid(), time.monotonic())
    return json.dumps([info.saga_id, step, info.direction, what, *keys, *process])


def note(what: str) -> None:
    """Write a line about the running body."""
    _client(os.getpid()).rpush(LINES, _line(what))


def effect_once() -> bool:
    """As ``note("effect")``; but a key's second effect is declined. Whether it was the first."""
    info = who()
    done = f"done:{info.idempotency_key}"
    client = _client(os.getpid())
    return bool(client.eval(_ONCE, 2, LINES, done, _line("effect"), _line("declined")))


class Ledger:
    """Reads what was written.

    Args:
        url: of its server.
    """

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)

    def __len__(self) -> int:
        length: Any = self._client.llen(LINES)
        return int(length)

    def lines(self) -> list[Line]:
        """All of it, in order."""
        found: list[Line] = []
        while True:
            page: Any = self._client.lrange(LINES, len(found), len(found) + PAGE - 1)
            found += [Line(*json.loads(raw)) for raw in page]
            if len(page) < PAGE:
                return found

    def last(self) -> dict[int, Line]:
        """The last line of each process, as far as the last lines have one."""
        tail: Any = self._client.lrange(LINES, -TAIL, -1)
        return {line.pid: line for line in (Line(*json.loads(raw)) for raw in tail)}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
