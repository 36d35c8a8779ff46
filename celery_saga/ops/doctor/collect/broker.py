"""Gathers the facts about the broker, and about the workers that use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import redis
from kombu import Connection

from celery_saga.core.ports import Store
from celery_saga.messaging.broker import open_connection
from celery_saga.messaging.redis.publish import RedisPublisher
from celery_saga.ops.doctor.collect.bounded import NoAnswer, within
from celery_saga.ops.doctor.collect.servers import gather_server, shown
from celery_saga.ops.doctor.collect.workers import gather_workers
from celery_saga.ops.doctor.facts import BrokerFacts, Server, Worker
from celery_saga.runtime import Runtime

#: Seconds that the broker has for its own replies.
ANSWER_TIMEOUT = 15.0

#: Remote control commands that workers get, one after the other.
COMMANDS = 3


@dataclass(frozen=True)
class Brokered:
    """The broker, its server if it is on Redis, and the workers that answered."""

    facts: BrokerFacts
    server: Server | None = None
    workers: tuple[Worker, ...] = ()


def gather_broker(runtime: Runtime, store: Store | None, timeout: float) -> Brokered:
    """Gather what the broker reports, and what workers report over it.

    Args:
        store: the sagas', if it answers.
        timeout: seconds that workers have to reply; see ``celery inspect --timeout``.
    """
    facts = BrokerFacts(url=shown(runtime.app.conf.broker_write_url))
    facts = _tried(facts, lambda: _broker(runtime, facts))
    if facts.problem or facts.driver == "memory":
        return Brokered(facts)
    facts = _tried(facts, lambda: _one_write(runtime, store, facts))
    try:
        server = within(ANSWER_TIMEOUT, lambda: _server(runtime, facts))
        # Each reply starts the timeout anew.
        limit = ANSWER_TIMEOUT + COMMANDS * 10 * timeout
        workers = within(limit, lambda: _workers(runtime, facts, timeout))
    except Exception as error:
        return Brokered(replace(facts, problem=_text(error)))
    return Brokered(facts, server, workers)


def _tried(facts: BrokerFacts, ask: Callable[[], BrokerFacts]) -> BrokerFacts:
    try:
        return within(ANSWER_TIMEOUT, ask)
    except Exception as error:  # every transport has errors of its own
        return replace(facts, problem=_text(error))


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, NoAnswer) else f"{type(error).__name__}: {error}"


def _broker(runtime: Runtime, facts: BrokerFacts) -> BrokerFacts:
    connection: Any
    with open_connection(runtime.app) as connection:
        channel = connection.default_channel
        seconds = getattr(channel, "visibility_timeout", None)
        # Transports that inherit from kombu's virtual one say so of their channels.
        fanout = getattr(channel, "supports_fanout", True)
        return replace(
            facts,
            driver=str(connection.transport.driver_type),
            asks=bool(fanout and connection.supports_exchange_type("fanout")),
            visibility_timeout=None if seconds is None else float(seconds),
        )


def _one_write(runtime: Runtime, store: Store | None, facts: BrokerFacts) -> BrokerFacts:
    if store is None:
        return facts
    outbox = RedisPublisher(runtime.app, store)
    return replace(facts, one_write=outbox.usable(), two_writes_because=outbox.refusal)


def _server(runtime: Runtime, facts: BrokerFacts) -> Server | None:
    if facts.driver != "redis":
        return None
    connection: Any
    with open_connection(runtime.app) as connection:
        pool = connection.default_channel.client.connection_pool
        return gather_server(redis.Redis(connection_pool=pool), facts.url, "broker")


def _workers(runtime: Runtime, facts: BrokerFacts, timeout: float) -> tuple[Worker, ...]:
    if not facts.asks:
        return ()
    connection: Connection
    with open_connection(runtime.app) as connection:
        return gather_workers(runtime.app, connection, timeout)
