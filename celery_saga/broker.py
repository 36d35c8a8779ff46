"""What is asked of the broker, without waiting for one that is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

import redis
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from celery_saga.dispatcher import Backlog

log = logging.getLogger("celery_saga")

#: How many of the messages that were given away are looked at.
LIMIT = 500

# KEYS: index by time of the messages that were given away, the messages. ARGV: until when, how
# many. Answers the tag and the task id of each, the newest first.
_GIVEN_AWAY = """
local found = {}
local tags = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], '-inf', 'LIMIT', 0, ARGV[2])
for _, tag in ipairs(tags) do
  local raw = redis.call('HGET', KEYS[2], tag)
  local id = raw and string.match(raw, '"id": ?"([^"]+)"')
  if id then
    found[#found + 1] = tag
    found[#found + 1] = id
  end
end
return found
"""


def open_connection(app: Celery) -> Connection:
    """An open connection to the app's broker.

    Celery's own would be tried again until it stands: for some seconds, and under gevent for as
    long as the broker is away.

    Raises:
        kombu.exceptions.OperationalError: the broker is away.
    """
    connection = app.connection_for_write()
    try:
        connection.ensure_connection(max_retries=0)
    except BaseException:
        connection.release()
        raise
    return connection


def backlog(app: Celery, queues: Collection[str]) -> Backlog:
    """What the app's broker says of some queues and of its deliveries; nothing, if it is away."""
    try:
        with open_connection(app) as connection:
            empty = frozenset(name for name in queues if _is_empty(connection, name))
            return Backlog(empty, _given_away(app, connection))
    except OperationalError:
        return Backlog()


def _is_empty(connection: Connection, queue: str) -> bool:
    try:
        with connection.channel() as channel:
            declare: Any = channel.queue_declare  # type: ignore[attr-defined]
            return bool(declare(queue=queue, passive=True).message_count == 0)
    except connection.channel_errors:
        return True  # there is no such queue, and so nothing in it
    except connection.recoverable_connection_errors:
        return False


def _given_away(app: Celery, connection: Connection) -> Mapping[str, str]:
    """What a Redis broker keeps of its deliveries, of which the newest are read.

    Other brokers know when a worker's connection has ended, and then deliver its messages again.
    """
    if connection.transport.driver_type != "redis":
        return {}
    # Two heartbeats, because one may be late.
    until = time.time() - 2 * float(app.conf.saga_heartbeat)
    try:
        channel: Any = connection.default_channel
        prefix = channel.global_keyprefix
        keys = [f"{prefix}{channel.unacked_index_key}", f"{prefix}{channel.unacked_key}"]
        client = redis.Redis(connection_pool=channel.client.connection_pool)
        found: Any = client.eval(_GIVEN_AWAY, len(keys), *keys, until, LIMIT)
    except Exception:
        # Keys and channel are internals of kombu's, and a server need not permit the script.
        log.debug("the broker does not say what it has given away", exc_info=True)
        return {}
    texts = [part.decode() for part in found]
    return dict(zip(texts[::2], texts[1::2], strict=True))
