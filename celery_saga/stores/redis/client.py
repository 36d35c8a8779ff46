"""Commands and scripts over the connections of a client's pool.

redis-py's client spends more time round a call (its pool, its packer, its hooks) than the server
spends on one of our scripts. Here a connection is of the client's own pool, so its options, its TLS
and its parser are redis-py's; only it is kept at hand while the pool has enough others, and a
command is packed at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import redis
from redis.exceptions import (
    ConnectionError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

from celery_saga.stores.redis import pool as redis_pool

#: hiredis packs a command in a third of the time, where it is installed (2.1 or newer).
pack_command: Any = None
with contextlib.suppress(ImportError, AttributeError):
    pack_command = importlib.import_module("hiredis").pack_command


@dataclass(frozen=True, slots=True)
class _Held:
    """A connection, the pool that it is of, and whether it is kept between calls."""

    pool: Any
    connection: Any
    kept: bool = False

    def drop(self) -> None:
        """Close it, and give it back."""
        self.connection.disconnect()
        self.pool.release(self.connection)
        if self.kept:
            redis_pool.let_go(self.pool)


class Wire:
    """The calls to one server.

    Args:
        client: gives the redis-py client whose connections are used.
    """

    def __init__(self, client: Callable[[], redis.Redis]) -> None:
        self._client = client
        # A stack, not one connection a thread: a greenlet pool makes a new thread for every task.
        self._kept: deque[_Held] = deque()
        self._pid = os.getpid()

    def run(self, source: str, keys: Iterable[str], args: Iterable[Any]) -> Any:
        """The answer of a script; raises as :meth:`call`, and may be sent twice as well."""
        keys = list(keys)
        parts = [len(keys), *keys, *args]
        try:
            return self.call("EVALSHA", _digest(source), *parts)
        except NoScriptError:
            return self.call("EVAL", source, *parts)

    def call(self, *parts: Any) -> Any:
        """The answer of a command; it is sent twice if the connection is lost under it.

        Raises:
            redis.exceptions.RedisError: as a call of redis-py's client.
        """
        if self._pid != os.getpid():  # the parent's sockets are the parent's
            self._kept, self._pid = deque(), os.getpid()
        try:
            held = self._kept.pop()
        except IndexError:
            return self._call_over_another(parts)
        try:
            return self._exchange(held, parts)
        except (ConnectionError, TimeoutError):
            # It may have been closed long ago, by a server that restarted or does not like idlers.
            return self._call_over_another(parts)

    def _call_over_another(self, parts: Sequence[Any]) -> Any:
        held = self._take()
        try:
            return self._exchange(held, parts)
        except ConnectionError:
            # Where a Sentinel names the master, that is the word for one that is none any more.
            return self._exchange(self._take(), parts)

    def _take(self) -> _Held:
        pool = self._client().connection_pool
        return _Held(pool, redis_pool.taken(pool))

    def _exchange(self, held: _Held, parts: Sequence[Any]) -> Any:
        try:
            held.connection.send_packed_command([packed(parts)])
            answer = held.connection.read_response()
        except (ReadOnlyError, MasterDownError):
            # The name may lead to another server by now, while this one lives on as its replica.
            held.drop()
            self.close()
            raise
        except ResponseError:  # an answer too: the connection stays usable
            self._return_connection(held)
            raise
        except BaseException:
            held.drop()  # what it would answer next is not known
            raise
        self._return_connection(held)
        return answer

    def _return_connection(self, held: _Held) -> None:
        if held.kept:
            self._kept.append(held)
        elif redis_pool.keep(held.pool):
            self._kept.append(_Held(held.pool, held.connection, kept=True))
        else:
            held.pool.release(held.connection)

    def close(self) -> None:
        """Return the connections that no call uses now."""
        while self._kept:
            self._kept.pop().drop()


@lru_cache(maxsize=64)
def _digest(source: str) -> str:
    return hashlib.sha1(source.encode()).hexdigest()


def packed(parts: Sequence[Any]) -> bytes:
    """A command as the server reads it: the count of its parts, then each with its length."""
    if pack_command is None:
        return packed_here(parts)
    raw: bytes = pack_command(tuple(parts))
    return raw


def packed_here(parts: Sequence[Any]) -> bytes:
    """The same without hiredis."""
    texts = [part if type(part) is str else _text(part) for part in parts]
    head = f"*{len(texts)}\r\n"
    body = "".join([f"${len(text)}\r\n{text}\r\n" for text in texts])
    if body.isascii():
        return (head + body).encode()
    raw = [text.encode() for text in texts]  # a length counts bytes
    return head.encode() + b"".join([b"$%d\r\n%b\r\n" % (len(item), item) for item in raw])


def _text(part: Any) -> str:
    return part.decode() if isinstance(part, bytes) else str(part)
