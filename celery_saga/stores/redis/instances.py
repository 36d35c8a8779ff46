"""The connection of a Redis store, and what it keeps of worker instances."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,
)

from celery_saga.core.execution import StepRef
from celery_saga.core.ports import INSTANCE_RETENTION, HeartbeatReply, Reserved
from celery_saga.errors import StoreError, StoreUnavailable
from celery_saga.stores.redis import scripts
from celery_saga.stores.redis.client import Wire
from celery_saga.stores.redis.pool import when_free

log = logging.getLogger("celery_saga")

_UNAVAILABLE = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    MasterDownError,
)

#: Of the errors that have no class: a server that has lost its replicas, whose disk is full, or
#: that runs another client's long script. Nothing was written.
_NOT_NOW = ("NOREPLICAS ", "MISCONF ", "BUSY ")

#: Seconds for which an estimate of the server's clock is used before the server is asked again.
CLOCK_TTL = 10.0


@contextmanager
def guarded() -> Iterator[None]:
    """Driver errors as the library's own; the driver's is the cause."""
    try:
        yield
    except _UNAVAILABLE as error:
        raise StoreUnavailable(f"the saga store does not answer: {error}") from error
    except RedisError as error:
        if str(error).startswith(_NOT_NOW):
            raise StoreUnavailable(f"the saga store does not take writes: {error}") from error
        raise StoreError(f"the saga store failed: {error}") from error


class RedisInstances:
    """Runs scripts, knows the server's time, and keeps the facts about worker instances."""

    def __init__(self, client: redis.Redis | Callable[[], redis.Redis], prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._clock: tuple[float, float] | None = None
        self._wire = Wire(lambda: self.client)

    @property
    def client(self) -> redis.Redis:
        """The redis-py client in use here."""
        return self._client() if callable(self._client) else self._client

    def _run(self, source: str, keys: list[str], args: list[Any]) -> Any:
        with guarded():
            return self._wire.run(source, keys, args)

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        """The answer of a call of the client's."""
        with guarded():
            return when_free(lambda: call(self.client))

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    def now(self) -> float:
        clock = self._clock
        if clock is None or time.monotonic() - clock[0] > CLOCK_TTL:
            try:
                self._set_clock(*self._ask(lambda client: client.time()))
            except StoreUnavailable:
                if clock is None:
                    raise
                # An old estimate will do: what ends while the store is unavailable has to be dated.
            clock = self._clock
        assert clock is not None
        return round(clock[1] + time.monotonic() - clock[0], 6)

    def _set_clock(self, seconds: Any, micros: Any) -> None:
        self._clock = (time.monotonic(), int(seconds) + int(micros) / 1e6)

    def heartbeat(
        self, instance: str, ttl: float, reserved: Collection[Reserved]
    ) -> HeartbeatReply:
        answer = self._run(
            scripts.BEAT,
            [self._key("instances"), self._key("reserved"), self._key("sweeper")],
            [
                instance,
                ttl,
                json.dumps(dict(sorted(reserved))) if reserved else "",
                self._key("claims", ""),
                INSTANCE_RETENTION,
            ],
        )
        seconds, micros, mine, claims, *dead = answer
        self._set_clock(seconds, micros)
        at = int(seconds) + int(micros) / 1e6
        return HeartbeatReply(
            at, tuple(instance.decode() for instance in dead), bool(mine), _refs(claims)
        )

    def reserved_by(self) -> dict[str, frozenset[Reserved]]:
        found = self._ask(lambda client: client.hgetall(self._key("reserved")))
        all_of_them = {instance.decode(): _reserved(text) for instance, text in found.items()}
        return {instance: some for instance, some in all_of_them.items() if some}

    def alive(self) -> frozenset[str]:
        key, now = self._key("instances"), self.now()
        found = self._ask(lambda client: client.zrangebyscore(key, now, "+inf"))
        return frozenset(instance.decode() for instance in found)

    def claims_of(self, instance: str) -> list[tuple[str, StepRef]]:
        found = self._ask(lambda client: client.smembers(self._key("claims", instance)))
        return list(_refs(found))

    def deregister(self, instance: str, claims: Collection[tuple[str, StepRef]] = ()) -> None:
        ended, key = {instance: self.now() - 0.001}, self._key("claims", instance)
        self._ask(lambda client: client.zadd(self._key("instances"), ended, lt=True))
        self._ask(lambda client: client.hdel(self._key("reserved"), instance))
        members = [ref.task_id(saga_id) for saga_id, ref in claims]
        if members:
            self._ask(lambda client: client.srem(key, *members))

    def register_app(self, app: str) -> frozenset[str]:
        seconds = str(int(INSTANCE_RETENTION))
        found = self._run(scripts.MEET, [self._key("apps")], [app, seconds])
        return frozenset(name.decode(errors="replace") for name in found)

    def close(self) -> None:
        self._wire.close()
        if not callable(self._client):
            self._client.close()


def _reserved(text: bytes) -> frozenset[Reserved]:
    """What an instance has reserved; nothing, if what it has written cannot be read."""
    try:
        return frozenset(Reserved(each, bool(later)) for each, later in json.loads(text).items())
    except (ValueError, TypeError, AttributeError):
        log.warning("what a worker has reserved cannot be read: %.80r", text)
        return frozenset()


def _refs(members: Iterable[bytes]) -> tuple[tuple[str, StepRef], ...]:
    """Task ids as saga ids and refs, in one order."""
    texts = (member.decode(errors="replace") for member in members)
    found = (parsed for text in texts if (parsed := StepRef.parse(text)))
    return tuple(sorted(found, key=str))
