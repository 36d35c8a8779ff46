"""Checkpoint and message as one atomic write, where store and broker share a Redis server.

kombu's Redis transport can hand over the commands that a publish ends in, after all of its own work
(routing, priority, encoding). A producer on a channel stand-in collects them, and the store carries
them out in the same script as the checkpoint. That keyword of kombu's is not promised to anybody:
in each process, and again when a connection was lost, the real thing is tried on a throw-away key
and read back over the broker's own connection. If anything about that is off, steps are published
after the save, as on every other broker.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery
from kombu import Producer

from celery_saga.broker import open_connection
from celery_saga.stores import Push
from celery_saga.stores.redis import RedisStore

log = logging.getLogger("celery_saga")

#: Seconds for which a passed or failed trial is believed.
TRUST = 60.0


class _CollectingChannel:
    """Stands in for a Redis channel: everything is the channel's, except where a publish ends."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.collected: list[Push] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        kwargs.pop("_publish_batch", None)
        for name in ("argsrepr", "kwargsrepr"):  # Celery puts them among the headers as well
            message["properties"].pop(name, None)
        return self._channel.basic_publish(
            message, exchange, routing_key, _publish_batch=self, **kwargs
        )

    def add(self, command: str, key: str, value: Any) -> None:
        """Called by the transport in place of sending a command."""
        self.collected.append((command, f"{self._channel.global_keyprefix}{key}", value))


class _Collector:
    """Connection, channel and producer of a process; no message is ever sent over them."""

    def __init__(self) -> None:
        self.pid = 0
        self.declared: set[str] = set()
        self.connection: Any = None
        self.channel: Any = None
        self.producer: Any = None

    def open(self, app: Celery) -> None:
        if self.pid == os.getpid():
            return
        self.connection = open_connection(app)
        self.channel = _CollectingChannel(self.connection.default_channel)
        self.producer = Producer(self.channel, auto_declare=False)
        self.declared, self.pid = set(), os.getpid()


class RedisOutbox:
    """Turns requests into the Redis commands that send them.

    Args:
        app: the Celery app whose broker is used.
        store: the store that will carry the commands out.
    """

    def __init__(self, app: Celery, store: RedisStore) -> None:
        self._app, self._store = app, store
        self._collector = _Collector()
        # Not one collector a thread: a greenlet pool makes a new thread for every task.
        self._lock = threading.RLock()
        self._trial: tuple[float, bool] | None = None
        self._told = False

    def forget(self) -> None:
        """A connection was lost: try again before the next use."""
        self._trial = None

    def usable(self) -> bool:
        """Whether store and broker are known to be one server that lets the store push."""
        with self._lock:
            trial = self._trial
            if trial is None or time.monotonic() - trial[0] > TRUST:
                trial = self._trial = (time.monotonic(), self._try())
            return trial[1]

    def _try(self) -> bool:
        try:
            passed = self._passes()
        except Exception as error:
            passed = False
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = "the broker is not on the store's server"
        if not passed and not self._told:
            self._told = True
            log.info("steps are published after their checkpoint, not with it: %s", reason)
        return passed

    def _passes(self) -> bool:
        self._collector.open(self._app)
        channel = self._collector.channel
        if not hasattr(channel, "create_publish_batch"):
            return False
        key, value = f"celery_saga-trial-{uuid.uuid4().hex}", uuid.uuid4().hex
        self._store.push([("lpush", f"{channel.global_keyprefix}{key}", value)], self.database())
        client = channel.client
        found = client.lrange(key, 0, -1)
        client.delete(key)
        return [bytes(item) for item in found] == [value.encode()]

    def database(self) -> int:
        """The number of the broker's database."""
        with self._lock:
            self._collector.open(self._app)
            pool = self._collector.channel.client.connection_pool
            return int(pool.connection_kwargs.get("db") or 0)

    def collect(self, request: Mapping[str, Any]) -> Sequence[Push]:
        """The commands that send ``request``."""
        with self._lock:
            self._collector.open(self._app)
            channel, declared = self._collector.channel, self._collector.declared
            channel.collected = []
            name, options = request["task"], dict(request["options"])
            if name in declared:
                options["declare"] = ()  # kombu would look the queue up each time
            options.update(producer=self._collector.producer, retry=False)
            task = self._app.tasks.get(name)
            if task is None:
                self._app.send_task(name, request["args"], request["kwargs"], **options)
            else:
                task.apply_async(request["args"], request["kwargs"], **options)
            declared.add(name)
            collected: Sequence[Push] = channel.collected
            return collected
