"""The broker's connection for what must not wait for a broker that is away, and what it knows."""

from __future__ import annotations

import re
from typing import Any

import redis
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

#: The task id in a message as kombu's Redis transport keeps it while nobody has acknowledged it.
_TASK_ID = re.compile(rb'"correlation_id": ?"([^"\\]+)"')


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


def handed_out(app: Celery) -> frozenset[str]:
    """Task ids of messages that some worker has taken and not acknowledged.

    Known of Redis brokers only, which keep them until their visibility timeout. Others deliver the
    messages of a worker that is gone again by themselves. Empty if the broker is away.
    """
    try:
        connection = open_connection(app)
    except OperationalError:
        return frozenset()
    with connection:
        channel: Any = connection.default_channel
        key = getattr(channel, "unacked_key", None)
        if connection.transport.driver_type != "redis" or key is None:
            return frozenset()
        # The prefix is put before keys by a client that does not know this command.
        client = redis.Redis(connection_pool=channel.client.connection_pool)
        try:
            messages: Any = client.hscan_iter(f"{channel.global_keyprefix}{key}", count=100)
            found = (_TASK_ID.search(text) for _, text in messages)
            return frozenset(match[1].decode() for match in found if match)
        except redis.exceptions.RedisError:
            return frozenset()
