"""Writes checkpoint and message atomically, where store and broker share a Redis server.

kombu's Redis transport can hand over the commands of a publish, after all of its own work (routing,
priority, encoding). A producer on a substitute channel collects them, and the store executes them
in the same script as the checkpoint. kombu does not document this keyword. So in each process, and
again after a connection was lost, a probe message is pushed to a temporary key and read back over
the broker's own connection. If the probe fails, steps are published after the checkpoint, as on
every other broker.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis
from celery import Celery
from kombu import Producer

from celery_saga.core.context.codec import JSON
from celery_saga.core.ports import Envelope, Message, Store
from celery_saga.messaging.broker import open_connection
from celery_saga.messaging.redis.message_cache import MessageCache
from celery_saga.stores.redis.client import Wire
from celery_saga.stores.redis.payload import Push, Pushes
from celery_saga.stores.redis.pool import when_free

log = logging.getLogger("celery_saga")

#: Seconds for which the result of a probe is cached.
PROBE_RESULT_TTL = 60.0


#: The number of unroutable messages that are remembered.
REMEMBERED = 10_000

#: Milliseconds after which the key of a probe expires.
PROBE_TTL = 10_000

#: The prefix of the endpoints of stores that can push.
_SCHEME = "redis:"

#: The two ways in which collected commands are executed.
_WITH, _ALONE = "with the checkpoint", "by themselves"


class _CollectingChannel:
    """Replaces a Redis channel: it collects the commands of a publish, and delegates the rest."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.collected: list[Push] = []
        #: Whether a message went to a fanout exchange, whose receivers are not queues.
        self.fanned_out = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        kwargs.pop("_publish_batch", None)
        for name in ("argsrepr", "kwargsrepr"):  # Celery puts them into the headers too
            message["properties"].pop(name, None)
        if exchange and self._channel.typeof(exchange).type == "fanout":
            self.fanned_out = True
        return self._channel.basic_publish(
            message, exchange, routing_key, _publish_batch=self, **kwargs
        )

    def add(self, command: str, key: str, value: Any) -> None:
        """Collect a command; called by the transport in place of sending it."""
        self.collected.append((command, f"{self._channel.global_keyprefix}{key}", value))


class _Collector:
    """Connection, channel and producer of a process; no message is sent over them."""

    def __init__(self) -> None:
        self.pid = 0
        self.declared: set[str] = set()
        self.connection: Any = None
        self.database = 0
        self.channel: Any = None
        self.producer: Any = None

    def open(self, app: Celery) -> None:
        if self.pid == os.getpid():
            return
        self.connection = open_connection(app)
        self.channel = _CollectingChannel(self.connection.default_channel)
        self.producer = Producer(self.channel, auto_declare=False)
        pool = self.channel.client.connection_pool
        self.database = int(pool.connection_kwargs.get("db") or 0)
        self.declared, self.pid = set(), os.getpid()


class RedisPublisher:
    """Turns messages into the Redis commands that send them.

    Args:
        app: the Celery app whose broker is used.
        store: the store that executes the commands, if it is on Redis.
    """

    def __init__(self, app: Celery, store: Store) -> None:
        self._app = app
        self._store = store
        self._collector = _Collector()
        self._wire = Wire(self._broker)
        self._cache = MessageCache(app)
        # One collector for all threads: a greenlet pool makes a new thread for every task.
        self._lock = threading.RLock()
        self._probes: dict[str, tuple[float, bool]] = {}
        self._logged = False
        #: Why the last probe failed.
        self.refusal = ""
        #: Task ids of messages that were not routed to a queue when they were last made.
        self.nowhere: set[str] = set()

    def forget(self) -> None:
        """Clear what is cached, because a connection was lost: probe again before the next use."""
        self._probes = {}
        self._cache.clear()

    def usable(self) -> bool:
        """Whether a probe has shown that the store may push to the broker on the same server."""
        by_store = self._store.endpoint.startswith(_SCHEME)
        return by_store and self._works(_WITH, self._push_by_store)

    def deliver(self, request: Mapping[str, Any]) -> bool:
        """Send ``request`` over the broker's own connection, if a probe has shown that it works."""
        if not self._works(_ALONE, self._push):
            return False
        try:
            self._push(self.collect(request))
        except redis.exceptions.RedisError:
            self.forget()
            return False
        return True

    def _works(self, what: str, push: Callable[[Sequence[Push]], None]) -> bool:
        known = self._known_result(what)
        if known is None:
            with self._lock:
                known = self._known_result(what)  # another thread may have probed meanwhile
                if known is None:
                    self._cache.clear()
                    known = self._probe(what, push)
                    self._probes[what] = (time.monotonic(), known)
        return known

    def _known_result(self, what: str) -> bool | None:
        probe = self._probes.get(what)
        return None if probe is None or time.monotonic() - probe[0] > PROBE_RESULT_TTL else probe[1]

    def _probe(self, what: str, push: Callable[[Sequence[Push]], None]) -> bool:
        try:
            passed = self._passes(push)
        except Exception as error:
            passed = False
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = "the broker is not on the store's server"
        self.refusal = "" if passed else reason
        if not passed and what == _WITH and not self._logged:
            self._logged = True
            log.info("steps are published after their checkpoint, not with it: %s", reason)
        return passed

    def _passes(self, push: Callable[[Sequence[Push]], None]) -> bool:
        if self._app.connection_for_write().transport.driver_type != "redis":  # not connected yet
            return False
        self._collector.open(self._app)
        channel = self._collector.channel
        if not hasattr(channel, "create_publish_batch"):
            return False
        key = f"{channel.global_keyprefix}celery_saga-probe-{uuid.uuid4().hex}"
        value = uuid.uuid4().hex
        # If these are two servers, no client reads the key where the store has put it.
        push([("lpush", key, value), ("pexpire", key, PROBE_TTL)])
        client = self._broker()
        found = when_free(lambda: client.lrange(key, 0, -1))
        when_free(lambda: client.delete(key))
        return {bytes(item) for item in found} == {value.encode()}

    def _broker(self) -> Any:
        """Return a client on the broker's own connections; the keys have their prefix already."""
        self._collector.open(self._app)
        return redis.Redis(connection_pool=self._collector.channel.client.connection_pool)

    def _push_by_store(self, pushes: Sequence[Push]) -> None:
        self._store.deliver([self._enclosed(pushes)])

    def _push(self, pushes: Sequence[Push]) -> None:
        for push in pushes:
            self._wire.call(*push)

    def database(self) -> int:
        """The number of the broker's database."""
        self._collector.open(self._app)
        return self._collector.database

    def envelope(self, message: Message) -> Envelope:
        """Return the message in the form for the store; only if it is :meth:`usable`."""
        return self._enclosed(self.collect(message))

    def _enclosed(self, pushes: Sequence[Push]) -> Envelope:
        # The probe, not the address, shows whether the broker is on the store's server.
        return Envelope(self._store.endpoint, Pushes(self.database(), pushes))

    def collect(self, request: Mapping[str, Any]) -> Sequence[Push]:
        """Return the commands that send ``request``."""
        found = self._cache.filled(request)
        if found is None:
            with self._lock:
                found = self._made_by_celery(request)
                self._cache.add(request, found)
        return found

    def _made_by_celery(self, request: Mapping[str, Any]) -> Sequence[Push]:
        self._collector.open(self._app)
        channel, declared = self._collector.channel, self._collector.declared
        channel.collected, channel.fanned_out = [], False
        options: dict[str, Any] = {"producer": self._collector.producer, "retry": False}
        if request["template"] in declared:
            options["declare"] = ()  # kombu would check the queue each time
        send(self._app, request, **options)
        declared.add(request["template"])
        collected: Sequence[Push] = channel.collected
        nowhere = not collected and not channel.fanned_out
        remember(self.nowhere, request["options"]["task_id"], nowhere)
        return collected


def remember(task_ids: set[str], task_id: str, so: bool) -> None:
    """Add a task id to a set or remove it; a full set is cleared, and filled again."""
    if not so:
        task_ids.discard(task_id)
        return
    if len(task_ids) >= REMEMBERED:
        task_ids.clear()
    task_ids.add(task_id)


def send(app: Celery, request: Mapping[str, Any], **options: Any) -> None:
    """Send a step's message as Celery does.

    Args:
        request: the publisher's message; arguments are JSON texts. ``"made"`` has the message if
            Celery has made it already.
        options: more options of the message.
    """
    if "made" in request:
        request["made"].send(app, **options)
        return
    args, kwargs = arguments(request)
    options = {**request["options"], **options}
    task: Any = app.tasks.get(request["task"])
    if task is None:
        app.send_task(request["task"], args, kwargs, **options)
    else:
        task.apply_async(args, kwargs, **options)


def arguments(request: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments of a step, as a worker gets them."""
    args = tuple(JSON.loads(text) for text in request["args"])
    return args, {name: JSON.loads(text) for name, text in request["kwargs"].items()}
