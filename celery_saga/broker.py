"""The broker's connection for what must not wait for a broker that is away."""

from __future__ import annotations

from celery import Celery
from kombu import Connection


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
