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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis
from celery import Celery
from kombu import Producer

from celery_saga.core.context.codec import JSON
from celery_saga.core.ports import Envelope, Message, Store
from celery_saga.messaging.broker import open_connection
from celery_saga.messaging.redis.message_cache import Templates
from celery_saga.stores.redis.client import Wire
from celery_saga.stores.redis.payload import Push, Pushes
from celery_saga.stores.redis.pool import when_free

log = logging.getLogger("celery_saga")

#: Seconds for which a passed or failed trial is believed.
PROBE_RESULT_TTL = 60.0


#: How many messages that did not get where they should are remembered.
REMEMBERED = 10_000

#: Milliseconds for which the key of a trial is kept at most.
PROBE_TTL = 10_000

#: How the endpoints begin of stores that can push.
_SCHEME = "redis:"

#: The two ways in which collected commands are carried out.
_WITH, _ALONE = "with the checkpoint", "by themselves"


class _CollectingChannel:
    """Stands in for a Redis channel: everything is the channel's, except where a publish ends."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.collected: list[Push] = []
        #: Whether a message went to an exchange whose receivers no queue stands for.
        self.fanned_out = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        kwargs.pop("_publish_batch", None)
        for name in ("argsrepr", "kwargsrepr"):  # Celery puts them among the headers as well
            message["properties"].pop(name, None)
        if exchange and self._channel.typeof(exchange).type == "fanout":
            self.fanned_out = True
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
    """Turns requests into the Redis commands that send them.

    Args:
        app: the Celery app whose broker is used.
        store: the store that will carry the commands out, if it is on Redis.
    """

    def __init__(self, app: Celery, store: Store) -> None:
        self._app = app
        self._store = store
        self._collector = _Collector()
        self._wire = Wire(self._broker)
        self._templates = Templates(app)
        # Not one collector a thread: a greenlet pool makes a new thread for every task.
        self._lock = threading.RLock()
        self._probes: dict[str, tuple[float, bool]] = {}
        self._told = False
        #: Why the last trial did not pass.
        self.refusal = ""
        #: Task ids of messages which, when they were last made here, went to no queue.
        self.nowhere: set[str] = set()

    def forget(self) -> None:
        """A connection was lost: try again before the next use."""
        self._probes = {}
        self._templates.forget()

    def usable(self) -> bool:
        """Whether store and broker are known to be one server that lets the store push."""
        by_store = self._store.endpoint.startswith(_SCHEME)
        return by_store and self._trusted(_WITH, self._push_by_store)

    def deliver(self, request: Mapping[str, Any]) -> bool:
        """Send ``request`` over the broker's own connection, if that is known to work."""
        if not self._trusted(_ALONE, self._push):
            return False
        try:
            self._push(self.collect(request))
        except redis.exceptions.RedisError:
            self.forget()
            return False
        return True

    def _trusted(self, what: str, push: Callable[[Sequence[Push]], None]) -> bool:
        known = self._known_result(what)
        if known is None:
            with self._lock:
                known = self._known_result(what)  # another thread may have found out meanwhile
                if known is None:
                    self._templates.forget()
                    known = self._try(what, push)
                    self._probes[what] = (time.monotonic(), known)
        return known

    def _known_result(self, what: str) -> bool | None:
        probe = self._probes.get(what)
        return None if probe is None or time.monotonic() - probe[0] > PROBE_RESULT_TTL else probe[1]

    def _try(self, what: str, push: Callable[[Sequence[Push]], None]) -> bool:
        try:
            passed = self._passes(push)
        except Exception as error:
            passed = False
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = "the broker is not on the store's server"
        self.refusal = "" if passed else reason
        if not passed and what == _WITH and not self._told:
            self._told = True
            log.info("steps are published after their checkpoint, not with it: %s", reason)
        return passed

    def _passes(self, push: Callable[[Sequence[Push]], None]) -> bool:
        if self._app.connection_for_write().transport.driver_type != "redis":  # not connected yet
            return False
        self._collector.open(self._app)
        channel = self._collector.channel
        if not hasattr(channel, "create_publish_batch"):
            return False
        key = f"{channel.global_keyprefix}celery_saga-trial-{uuid.uuid4().hex}"
        value = uuid.uuid4().hex
        # If the servers are two, nobody looks for it where the store has put it.
        push([("lpush", key, value), ("pexpire", key, PROBE_TTL)])
        client = self._broker()
        found = when_free(lambda: client.lrange(key, 0, -1))
        when_free(lambda: client.delete(key))
        return {bytes(item) for item in found} == {value.encode()}

    def _broker(self) -> Any:
        """A client on the broker's own connections; a prefix is in the keys already."""
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
        """The message for the store, once that is known to be :meth:`usable`."""
        return self._enclosed(self.collect(message))

    def _enclosed(self, pushes: Sequence[Push]) -> Envelope:
        # Whether the broker is on the store's server is known by trying, not by its address.
        return Envelope(self._store.endpoint, Pushes(self.database(), pushes))

    def collect(self, request: Mapping[str, Any]) -> Sequence[Push]:
        """The commands that send ``request``."""
        found = self._templates.filled(request)
        if found is None:
            with self._lock:
                found = self._made_by_celery(request)
                self._templates.learn(request, found)
        return found

    def _made_by_celery(self, request: Mapping[str, Any]) -> Sequence[Push]:
        self._collector.open(self._app)
        channel, declared = self._collector.channel, self._collector.declared
        channel.collected, channel.fanned_out = [], False
        options: dict[str, Any] = {"producer": self._collector.producer, "retry": False}
        if request["template"] in declared:
            options["declare"] = ()  # kombu would look the queue up each time
        send(self._app, request, **options)
        declared.add(request["template"])
        collected: Sequence[Push] = channel.collected
        nowhere = not collected and not channel.fanned_out
        remember(self.nowhere, request["options"]["task_id"], nowhere)
        return collected


def remember(task_ids: set[str], task_id: str, so: bool) -> None:
    """Have a task id among others, or not; of too many all are forgotten, and learnt again."""
    if not so:
        task_ids.discard(task_id)
        return
    if len(task_ids) >= REMEMBERED:
        task_ids.clear()
    task_ids.add(task_id)


def send(app: Celery, request: Mapping[str, Any], **options: Any) -> None:
    """Send a step as Celery does.

    Args:
        request: as the publisher makes it: arguments are JSON texts. Under ``"made"`` it may have
            the message, if Celery has made it already.
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
    """Positional and keyword arguments of a step, as they arrive."""
    args = tuple(JSON.loads(text) for text in request["args"])
    return args, {name: JSON.loads(text) for name, text in request["kwargs"].items()}
