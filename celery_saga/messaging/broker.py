"""Reads queues and deliveries from the broker, without waiting for one that is unavailable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import redis
from celery import Celery
from celery.app.routes import MapRoute
from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from celery_saga.core.ports import Backlog
from celery_saga.core.recovery.policy import RecoveryPolicy
from celery_saga.settings import Settings

log = logging.getLogger("celery_saga")

#: Limits of one reading: unacknowledged messages, or messages in a queue; and their bytes.
LIMIT, LIMIT_BYTES = 500, 1_000_000

# Searching a large body for a pattern takes long, and the body comes first.
_ID = """
local function id_of(raw)
  return string.match(raw, '"id": ?"([^"]+)"', string.find(raw, '"headers"', 1, true) or #raw)
end
"""

# KEYS: index by time of the unacknowledged messages, the messages. ARGV: until when, how many, how
# many bytes. Returns the tag and the task id of each, the newest first.
_UNACKNOWLEDGED = (
    _ID
    + """
local found, left = {}, tonumber(ARGV[3])
local tags = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], '-inf', 'LIMIT', 0, ARGV[2])
for _, tag in ipairs(tags) do
  local raw = left > 0 and redis.call('HGET', KEYS[2], tag)
  local id = raw and id_of(raw)
  if raw then left = left - #raw end
  if id then
    found[#found + 1] = tag
    found[#found + 1] = id
  end
end
return found
"""
)

# KEYS: the lists of a queue. ARGV: how many messages and bytes may be in them. Returns nothing if
# there are more, or one of them has no task id; else a marker and the task ids of all.
_WAITING = (
    _ID
    + """
local found, left, bytes = {'all'}, tonumber(ARGV[1]), tonumber(ARGV[2])
for _, key in ipairs(KEYS) do left = left - redis.call('LLEN', key) end
if left < 0 then return {} end
for _, key in ipairs(KEYS) do
  local first = 0
  repeat
    local some = redis.call('LRANGE', key, first, first + 19)
    for _, raw in ipairs(some) do
      local id = id_of(raw)
      bytes = bytes - #raw
      if not id or bytes < 0 then return {} end
      found[#found + 1] = id
    end
    first = first + 20
  until #some < 20
end
return found
"""
)


def open_connection(app: Celery) -> Connection:
    """Open a connection to the app's broker.

    Celery's own call retries until it is connected: for some seconds, and under gevent for as
    long as the broker is unavailable.

    Raises:
        kombu.exceptions.OperationalError: the broker is unavailable.
    """
    connection = app.connection_for_write()
    try:
        connection.ensure_connection(max_retries=0)
    except BaseException:
        connection.release()
        raise
    return connection


def backlog(app: Celery, queues: Collection[str]) -> Backlog:
    """Return what the app's broker reports of some queues and its deliveries; nothing without it.

    Args:
        queues: only those to which the messages certainly go: a message that is not found in its
            queue counts as lost.
    """
    try:
        with open_connection(app) as connection:
            sizes = {name: _size(connection, name) for name in queues}
            empty = frozenset(name for name, size in sizes.items() if size == 0)
            long = frozenset(name for name, size in sizes.items() if size > LIMIT)
            if connection.transport.driver_type != "redis":
                # Other brokers detect the end of a worker's connection, and deliver again.
                return Backlog(empty, long=long)
            some = frozenset(queues) - empty - long
            waiting = {name: _waiting(connection, name) for name in some}
            until = time.time() - RecoveryPolicy.of(Settings.of(app)).known_after
            return Backlog(
                empty,
                _unacknowledged(connection, until),
                {name: found for name, found in waiting.items() if found is not None},
                long,
            )
    except OperationalError:
        return Backlog()


def routes_by_name(app: Celery) -> bool:
    """Whether all messages of a task are routed alike."""
    router: Any = app.amqp.router
    return all(type(route) is MapRoute for route in router.routes or ())


def lacks_exchange(app: Celery, exchange: str) -> bool:
    """Whether a broker that has exchanges is known to lack this one.

    The exchanges of a Redis broker are names in each process; only its queues matter.
    """
    try:
        with open_connection(app) as connection:
            if connection.transport.driver_type == "redis":
                return False
            try:
                with connection.channel() as channel:
                    declare: Any = channel.exchange_declare  # type: ignore[attr-defined]
                    declare(exchange=exchange, type="direct", passive=True)
            except connection.channel_errors:
                return True
    except OperationalError:
        log.debug("the broker is unavailable", exc_info=True)
    return False


def _size(connection: Connection, queue: str) -> int:
    """The number of messages in a queue; negative: not known."""
    try:
        with connection.channel() as channel:
            declare: Any = channel.queue_declare  # type: ignore[attr-defined]
            return int(declare(queue=queue, passive=True).message_count)
    except connection.channel_errors:
        return 0  # the queue does not exist
    except connection.recoverable_connection_errors:
        return -1


def _unacknowledged(connection: Connection, until: float) -> Mapping[str, str]:
    """Task ids by delivery tag of the newest unacknowledged messages of a Redis broker."""
    texts = _evaluated(
        connection,
        _UNACKNOWLEDGED,
        lambda channel: [channel.unacked_index_key, channel.unacked_key],
        (until, LIMIT, LIMIT_BYTES),
    )
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _waiting(connection: Connection, queue: str) -> frozenset[str] | None:
    """The task ids of all messages in a queue; ``None``: not known."""
    texts = _evaluated(
        connection,
        _WAITING,
        lambda channel: [channel._q_for_pri(queue, step) for step in channel.priority_steps],
        (LIMIT, LIMIT_BYTES),
    )
    return frozenset(texts[1:]) if texts else None


def _evaluated(
    connection: Connection,
    script: str,
    keys_of: Callable[[Any], Sequence[str]],
    args: Sequence[Any],
) -> Sequence[str]:
    """Return what a script finds on a Redis broker, or nothing.

    Keys and channel are internals of kombu, and the server may not permit the script.
    """
    try:
        channel: Any = connection.default_channel
        keys = [f"{channel.global_keyprefix}{key}" for key in keys_of(channel)]
        client = redis.Redis(connection_pool=channel.client.connection_pool)
        found: Any = client.eval(script, len(keys), *keys, *args)
    except Exception:
        log.debug("the messages of the broker cannot be read", exc_info=True)
        return []
    return [part.decode() for part in found]


def broker_kind(app: Celery) -> str:
    """Return the kind of the app's broker, such as ``redis``, without connecting to it."""
    with app.connection_for_write() as connection:
        return str(connection.transport.driver_type)


def label_of(app: Celery) -> str:
    """Return a text that identifies an app among others in one store, equal in all its workers."""
    urls: Any = app.conf.broker_write_url
    urls = urls if isinstance(urls, (list, tuple)) else str(urls or "").split(";")
    broker = ";".join(sorted(str(maybe_sanitize_url(url)).partition("?")[0] for url in urls))
    return f"{app.main or 'without a name'} ({broker}, queue {app.conf.task_default_queue})"
