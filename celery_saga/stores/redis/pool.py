"""What a redis-py client's connection pool has to give, where its limit is low.

Connections are taken from the pool of the client that the user has configured: so they lead where
the client's lead (to the master that a Sentinel names, through TLS, with its password), and they
count against its limit. A pool that has none free is busy, and no outage: it is waited for.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import redis
from redis.exceptions import ConnectionError
from redis.sentinel import SentinelConnectionPool

T = TypeVar("T")

#: Seconds for which a connection of a pool is waited for.
BUSY_TIMEOUT = 30.0

#: The pauses between two looks at a pool that has none free, in seconds: the first, and the last.
PAUSES = 0.001, 0.05

#: How redis-py says it, where it has no class for it.
_BUSY = ("Too many connections", "No connection available.")

#: A pool's share that may be held while nothing is asked, and the most that are.
SHARE, MOST = 4, 1024

#: Until 5.3, a pool asked for what the connection is wanted.
_GIVEN = () if getattr(redis, "VERSION", (6,)) >= (5, 3) else ("EVALSHA",)


def is_busy(error: BaseException) -> bool:
    """Whether an error of redis-py's says that all connections of a pool are in use."""
    return isinstance(error, ConnectionError) and (
        type(error).__name__ == "MaxConnectionsError" or str(error) in _BUSY
    )


def when_free(call: Callable[[], T]) -> T:
    """Repeat ``call`` while the pool that it needs has no connection free.

    Raises:
        redis.exceptions.RedisError: of the call; for a pool that stays busy, one that names the
            settings of its limit.
    """
    until = time.monotonic() + BUSY_TIMEOUT
    pause, longest = PAUSES
    while True:
        try:
            return call()
        except ConnectionError as error:
            if not is_busy(error):
                raise
            if time.monotonic() + pause > until:
                raise ConnectionError(
                    f"all connections of the pool were in use for {BUSY_TIMEOUT:g} seconds: "
                    f"raise redis_max_connections (of the result backend), max_connections= in "
                    f"saga_store_url, or max_connections in broker_transport_options"
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, longest)


def taken(pool: Any) -> Any:
    """A connected connection of the pool, which is to be released; waits while all are in use."""
    return when_free(lambda: pool.get_connection(*_GIVEN))


#: The places in each pool's share that are free. Of plain deques: a lock might be held by a thread
#: that a forked child does not have.
_shares: WeakKeyDictionary[Any, deque[None]] = WeakKeyDictionary()

os.register_at_fork(after_in_child=lambda: _shares.clear())


def _share_of(pool: Any) -> deque[None]:
    found = _shares.get(pool)
    if found is None:
        places = min(int(pool.max_connections) // SHARE, MOST)
        found = _shares.setdefault(pool, deque([None] * places))
    return found


def hold(pool: Any) -> bool:
    """Whether one more connection may be held while nothing is asked.

    A pool with a low limit is shared: with Celery, and among our own threads. One that was allowed
    is returned by :func:`let_go`.
    """
    try:
        _share_of(pool).pop()
    except IndexError:
        return False
    return True


def let_go(pool: Any) -> None:
    """A connection is not held any more."""
    _share_of(pool).append(None)


def keep(pool: Any) -> bool:
    """As :func:`hold`, for a connection that is to be used again.

    Where a Sentinel names the master, the pool drops what leads to an old one when it comes back.
    """
    return not isinstance(pool, SentinelConnectionPool) and hold(pool)


def endpoint_of(pool: Any) -> str:
    """The server and database to which a pool leads, as far as its settings say.

    ``redis://host:6379/0``, ``redis:///a/socket/0``, or what a Sentinel is asked for:
    ``redis://master@one:26379,two:26379/0``. Two pools that lead to one database have the same.
    """
    options = pool.connection_kwargs
    database = options.get("db") or 0
    if isinstance(pool, SentinelConnectionPool):
        asked = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
        names = sorted(f"{each.get('host')}:{each.get('port')}" for each in asked)
        return f"redis://{pool.service_name}@{','.join(names)}/{database}"
    if options.get("path"):
        return f"redis://{options['path']}/{database}"
    return f"redis://{options.get('host', 'localhost')}:{options.get('port', 6379)}/{database}"
