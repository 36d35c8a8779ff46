"""A connection pool whose limit is low: it is shared and waited for, and busy is not an outage."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from celery_saga.core.execution import SagaStatus
from celery_saga.core.ports import Store
from celery_saga.errors import StoreUnavailable
from celery_saga.stores.redis import RedisStore
from celery_saga.stores.redis import pool as redis_pool
from celery_saga.stores.redis.client import Wire
from celery_saga.testing.builders import create, save
from celery_saga.testing.embedded import EmbeddedValkey
from celery_saga.testing.store_contract import StoreContract

ECHO = "return {KEYS[1], ARGV[1]}"

Make = Callable[..., redis.Redis]


class Watched(redis.ConnectionPool):
    """A pool that reports when a caller found it busy."""

    found_busy: threading.Event

    def get_connection(self, *args: Any, **options: Any) -> Any:
        try:
            return super().get_connection(*args, **options)
        except ConnectionError:
            self.found_busy.set()
            raise


def pool_of(valkey: EmbeddedValkey, limit: int, **options: Any) -> Watched:
    pool = Watched.from_url(valkey.url(6), max_connections=limit, **options)
    pool.found_busy = threading.Event()
    return pool


def blocking(valkey: EmbeddedValkey, limit: int, timeout: float = 0.01) -> Any:
    return redis.BlockingConnectionPool.from_url(
        valkey.url(6), max_connections=limit, timeout=timeout
    )


@pytest.fixture(params=[pool_of, blocking], ids=["pool", "blocking"])
def make(request: pytest.FixtureRequest, valkey: EmbeddedValkey) -> Iterator[Make]:
    made: list[redis.Redis] = []

    def make(limit: int) -> redis.Redis:
        made.append(redis.Redis(connection_pool=request.param(valkey, limit)))
        return made[-1]

    with redis.Redis.from_url(valkey.url(6)) as client:
        client.flushdb()
    yield make
    for client in made:
        client.connection_pool.disconnect()


class TestRedisStoreWithOneConnection(StoreContract):
    """All that a store does can be done with a single connection."""

    @pytest.fixture
    def store(self, make: Make) -> Store:
        return RedisStore(make(1))


class TestRedisStoreWithFewConnections(StoreContract):
    """With four, one is kept and the others are shared."""

    @pytest.fixture
    def store(self, make: Make) -> Store:
        return RedisStore(make(4))


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 9])
def test_threads_share_what_there_is(make: Make, limit: int) -> None:
    wire, client = Wire(lambda: one), make(limit)
    one = client

    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda n: wire.run(ECHO, ["k"], [n])[1], range(300)))

    assert found == [str(n).encode() for n in range(300)]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 9])
def test_others_find_a_connection_when_nothing_is_asked(make: Make, limit: int) -> None:
    """Celery's result backend uses the same pool, and does not wait for it."""
    client = make(limit)
    wires = [Wire(lambda: client) for _ in range(6)]
    for wire in wires:
        wire.run(ECHO, ["k"], [1])

    taken = [client.connection_pool.get_connection() for _ in range(limit - limit // 4)]

    for connection in taken:
        client.connection_pool.release(connection)


def test_a_busy_pool_is_waited_for(valkey: EmbeddedValkey) -> None:
    pool = pool_of(valkey, 1)
    client = redis.Redis(connection_pool=pool)
    store = RedisStore(client)
    ours = pool.get_connection()

    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(store.load, "nothing")
        assert pool.found_busy.wait(10)
        pool.release(ours)
        assert asked.result(10) is None


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda store: store.now(), id="now"),
        pytest.param(lambda store: store.alive(), id="alive"),
        pytest.param(lambda store: store.reserved_by(), id="reserved_by"),
        pytest.param(lambda store: store.claims_of("x"), id="claims_of"),
        pytest.param(lambda store: store.deregister("x"), id="deregister"),
        pytest.param(lambda store: store.find(SagaStatus.STUCK, 1), id="find"),
        pytest.param(lambda store: store.wait("x", 0.0), id="wait"),
    ],
)
def test_every_call_waits_for_a_busy_pool(
    valkey: EmbeddedValkey, ask: Callable[[Store], Any]
) -> None:
    pool = pool_of(valkey, 1)
    store = RedisStore(redis.Redis(connection_pool=pool))
    ours = pool.get_connection()

    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, store)
        assert pool.found_busy.wait(10)
        pool.release(ours)
        asked.result(10)


def test_a_pool_that_stays_busy_names_its_setting(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_pool, "BUSY_TIMEOUT", 0.05)
    client = make(1)
    ours = client.connection_pool.get_connection()

    with pytest.raises(StoreUnavailable, match="redis_max_connections"):
        RedisStore(client).load("nothing")

    client.connection_pool.release(ours)
    assert RedisStore(client).load("nothing") is None


def test_more_may_wait_for_ends_than_there_are_connections(make: Make) -> None:
    store = RedisStore(make(4))
    before = create(store)
    saga_id, waits = before.saga_id, 8

    with ThreadPoolExecutor(waits) as threads:
        asked = [threads.submit(store.wait, saga_id, 30.0) for _ in range(waits)]
        after = save(store, before, replace(before, status=SagaStatus.STUCK, due_at=None))
        found = [each.result(30) for each in asked]

    assert found == [after] * waits


def in_use(client: redis.Redis) -> int:
    """How many of the pool's connections are out, to the pool's own count."""
    return len(client.connection_pool._in_use_connections)


def test_a_connection_whose_answer_did_not_come_is_released_and_not_used_again(
    valkey: EmbeddedValkey,
) -> None:
    """Else the next call would get the answer of this one."""
    client = redis.Redis(connection_pool=pool_of(valkey, 1, socket_timeout=0.1))
    wire = Wire(lambda: client)

    with pytest.raises(TimeoutError):
        wire.call("BLPOP", "an empty list", 0)

    assert in_use(client) == 0
    assert wire.run(ECHO, ["k"], [1]) == [b"k", b"1"]


def test_an_error_of_the_server_gives_its_connection_back(valkey: EmbeddedValkey) -> None:
    client = redis.Redis(connection_pool=pool_of(valkey, 1))

    with pytest.raises(ResponseError):
        Wire(lambda: client).call("NOT-A-COMMAND")

    assert in_use(client) == 0


def test_closing_leaves_the_whole_pool(valkey: EmbeddedValkey) -> None:
    client = redis.Redis(connection_pool=pool_of(valkey, 4))
    for _ in range(3):
        wire = Wire(lambda: client)
        wire.run(ECHO, ["k"], [1])
        assert in_use(client) == 1, "with four, one is kept"
        wire.close()
        assert in_use(client) == 0


def test_a_forked_child_has_the_whole_pool(valkey: EmbeddedValkey) -> None:
    client = redis.Redis(connection_pool=pool_of(valkey, 4))
    wire = Wire(lambda: client)
    wire.run(ECHO, ["k"], ["before"])

    child = os.fork()
    if child == 0:
        right = wire.run(ECHO, ["child"], [1]) == [b"child", b"1"] and in_use(client) == 1
        os._exit(0 if right else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert wire.run(ECHO, ["parent"], [1]) == [b"parent", b"1"]


def test_a_server_that_takes_no_more_clients_is_not_a_busy_pool(valkey: EmbeddedValkey) -> None:
    assert not redis_pool.is_busy(ConnectionError("max number of clients reached"))
    assert not redis_pool.is_busy(TimeoutError("Too many connections"))
    pool = pool_of(valkey, 1)
    ours = pool.get_connection()
    with pytest.raises(ConnectionError) as caught:
        pool.get_connection()
    assert redis_pool.is_busy(caught.value)
    pool.release(ours)


def test_a_wait_ends_at_its_time_without_notices(make: Make) -> None:
    store = RedisStore(make(1))
    execution = create(store)
    assert store.wait(execution.saga_id, 0.05) == execution


def test_connections_are_the_pools_own(valkey: EmbeddedValkey) -> None:
    """A class of one's own is used, with its options; nothing is made past the pool."""

    class Named(redis.connection.Connection):
        made = 0

        def _connect(self) -> Any:
            Named.made += 1
            return super()._connect()  # type: ignore[no-untyped-call]

    pool = redis.ConnectionPool.from_url(
        valkey.url(6), connection_class=Named, client_name="own", max_connections=2
    )
    client = redis.Redis(connection_pool=pool)
    wire = Wire(lambda: client)
    for number in range(5):
        wire.run(ECHO, ["k"], [number])

    with redis.Redis.from_url(valkey.url(6)) as other:
        assert [line["name"] for line in other.client_list()].count("own") == 1
    assert Named.made == 1
    pool.disconnect()
    assert wire.run(ECHO, ["k"], [9]) == [b"k", b"9"]
