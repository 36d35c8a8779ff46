"""Runs scripts over connections of its own.

redis-py's client spends more time round a call (its pool, its packer, its hooks) than the server
spends on one of our scripts. Here a connection is redis-py's own, so are its options, its TLS and
its parser; only the pool is a stack, and a command is packed at once.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import redis
from redis.exceptions import ConnectionError, NoScriptError, ResponseError, TimeoutError


class Wire:
    """The script calls of one store.

    Args:
        client: gives the redis-py client whose server and options are used.
    """

    def __init__(self, client: Callable[[], redis.Redis]) -> None:
        self._client = client
        # A stack, not one connection a thread: a greenlet pool makes a new thread for every task.
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()

    def run(self, source: str, keys: Iterable[str], args: Iterable[Any]) -> Any:
        """The answer of a script; each may be sent twice, if the connection is lost under it.

        Raises:
            redis.exceptions.RedisError: as a call of redis-py's client.
        """
        parts = [str(len(keys := list(keys))), *keys, *args]
        if self._pid != os.getpid():  # the parent's sockets are the parent's
            self._idle, self._pid = deque(), os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._exchange(self._connect(), source, parts)
        try:
            return self._exchange(connection, source, parts)
        except (ConnectionError, TimeoutError):
            # It may have been closed long ago, by a server that restarted or does not like idlers.
            return self._exchange(self._connect(), source, parts)

    def _connect(self) -> Any:
        pool = self._client().connection_pool
        return pool.connection_class(**pool.connection_kwargs)

    def _exchange(self, connection: Any, source: str, parts: list[Any]) -> Any:
        try:
            try:
                connection.send_packed_command([packed(["EVALSHA", _digest(source), *parts])])
                answer = connection.read_response()
            except NoScriptError:
                connection.send_packed_command([packed(["EVAL", source, *parts])])
                answer = connection.read_response()
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


def packed(parts: Iterable[Any]) -> bytes:
    """A command as the server reads it: the count of its parts, then each with its length."""
    texts = [part if type(part) is str else _text(part) for part in parts]
    head = f"*{len(texts)}\r\n"
    body = "".join([f"${len(text)}\r\n{text}\r\n" for text in texts])
    if body.isascii():
        return (head + body).encode()
    raw = [text.encode() for text in texts]  # a length counts bytes
    return head.encode() + b"".join([b"$%d\r\n%b\r\n" % (len(item), item) for item in raw])


def _text(part: Any) -> str:
    return part.decode() if isinstance(part, bytes) else str(part)
