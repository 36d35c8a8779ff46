"""Commands and scripts over connections of its own.

redis-py's client spends more time round a call (its pool, its packer, its hooks) than the server
spends on one of our scripts. Here a connection is redis-py's own, so are its options, its TLS and
its parser; only the pool is a stack, and a command is packed at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
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

#: hiredis packs a command in a third of the time, where it is installed (2.1 or newer).
pack_command: Any = None
with contextlib.suppress(ImportError, AttributeError):
    pack_command = importlib.import_module("hiredis").pack_command


class Wire:
    """The calls to one server.

    Args:
        client: gives the redis-py client whose server and options are used.
    """

    def __init__(self, client: Callable[[], redis.Redis]) -> None:
        self._client = client
        # A stack, not one connection a thread: a greenlet pool makes a new thread for every task.
        self._idle: deque[Any] = deque()
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
            self._idle, self._pid = deque(), os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._exchange(self._connect(), parts)
        try:
            return self._exchange(connection, parts)
        except (ConnectionError, TimeoutError):
            # It may have been closed long ago, by a server that restarted or does not like idlers.
            return self._exchange(self._connect(), parts)

    def _connect(self) -> Any:
        pool = self._client().connection_pool
        return pool.connection_class(**pool.connection_kwargs)

    def _exchange(self, connection: Any, parts: Sequence[Any]) -> Any:
        try:
            connection.send_packed_command([packed(parts)])
            answer = connection.read_response()
        except (ReadOnlyError, MasterDownError):
            # The name may lead to another server by now, while this one lives on as its replica.
            connection.disconnect()
            self.close()
            raise
        except ResponseError:  # an answer too: the connection goes on
            self._idle.append(connection)
            raise
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Give back the connections that nobody uses now."""
        while self._idle:
            self._idle.pop().disconnect()


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
