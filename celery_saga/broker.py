"""What is asked of the broker, without waiting for one that is away."""

from __future__ import annotations

import time
from typing import Any

import redis
from celery import Celery
from kombu import Connection

#: How many of the messages that were given away are looked at.
LIMIT = 500

# KEYS: index by time of the messages that were given away, the messages. ARGV: until when, how
# many. Answers their task ids, the newest first.
_GIVEN_AWAY = """
local found = {}
local tags = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], '-inf', 'LIMIT', 0, ARGV[2])
for _, tag in ipairs(tags) do
  local raw = redis.call('HGET', KEYS[2], tag)
  local id = raw and string.match(raw, '"id": ?"([^"]+)"')
  if id then found[#found + 1] = id end
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


def given_away(app: Celery, age: float) -> frozenset[str]:
    """Task ids of messages that nobody has acknowledged, given to workers ``age`` seconds ago.

    Only a Redis broker has such books, of which the newest messages are read. The others know when
    a worker's connection has ended, and deliver its messages again.

    Raises:
        kombu.exceptions.OperationalError, redis.exceptions.RedisError: it does not say.
    """
    with open_connection(app) as connection:
        if connection.transport.driver_type != "redis":
            return frozenset()
        channel: Any = connection.default_channel
        prefix = channel.global_keyprefix
        keys = [f"{prefix}{channel.unacked_index_key}", f"{prefix}{channel.unacked_key}"]
        client = redis.Redis(connection_pool=channel.client.connection_pool)
        found: Any = client.eval(_GIVEN_AWAY, len(keys), *keys, time.time() - age, LIMIT)
    return frozenset(task_id.decode() for task_id in found)
