"""The store contract, over every store."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.execution import SagaStatus
from celery_saga.core.ports import Envelope, Reserved, Store
from celery_saga.errors import PublishRefused, StoreError, StoreUnavailable, UnsupportedCheckpoint
from celery_saga.stores.memory import MemoryStore
from celery_saga.stores.redis import RedisStore, instances
from celery_saga.stores.redis.payload import Pushes, Result
from celery_saga.testing.builders import claim, create, granted, make_execution, save, until
from celery_saga.testing.embedded import EmbeddedValkey
from celery_saga.testing.store_contract import StoreContract


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url(5)) as client:
        client.flushdb()
        yield client


def refuse_writes(client: redis.Redis, setting: str) -> None:
    if setting == "min-replicas-to-write":
        client.config_set(setting, 1)
        return
    client.config_set("save", "900 1")
    shutil.rmtree(client.config_get("dir")["dir"])
    client.execute_command("BGSAVE")
    until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")


def stopped_server() -> str:
    """The address of a server that was stopped."""
    with EmbeddedValkey() as server:
        return server.url(0)


def _database(client: redis.Redis) -> int:
    return int(client.connection_pool.connection_kwargs["db"])


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestRedisStore(StoreContract):
    @pytest.fixture
    def store(self, client: redis.Redis) -> Store:
        return RedisStore(client)

    def test_what_envelopes_hold_is_written_with_a_checkpoint(self, client: redis.Redis) -> None:
        store = RedisStore(client)
        first = create(store)
        sent = Envelope(store.endpoint, Pushes(_database(client), [("lpush", "queue", "one")]))
        kept = Envelope(store.endpoint, Result([("set", "result")], '{"a": ', "}"))
        after = replace(first, values={"n": 1})

        assert store.save(first, after, "token", [sent, kept]) is not None
        assert client.lrange("queue", 0, -1) == [b"one"]
        assert client.get("result") == b'{"a": {"n":1}}'
        store.deliver([sent])
        assert client.llen("queue") == 2

    def test_what_the_server_refuses_leaves_no_checkpoint(self, client: redis.Redis) -> None:
        store = RedisStore(client)
        first = create(store)
        wrong = Envelope(store.endpoint, Pushes(_database(client), [("lpush", "a string", "one")]))
        two = [Envelope(store.endpoint, Pushes(n, [("lpush", "q", "one")])) for n in (0, 1)]
        client.set("a string", "")

        for batch in ([wrong], two):
            with pytest.raises(PublishRefused):
                store.save(first, replace(first, values={"n": 1}), "token", batch)
            with pytest.raises(PublishRefused):
                store.deliver(batch)
        assert store.load(first.saga_id) == first

    def test_terminal_sagas_expire_and_live_ones_do_not(self, client: redis.Redis) -> None:
        store = RedisStore(client, expires=100)
        first = create(store)
        key = f"saga:execution:{first.saga_id}"
        assert client.ttl(key) == -1
        done = save(store, first, replace(first, status=SagaStatus.COMPENSATED, due_at=None))
        assert done is not None
        assert 0 < client.ttl(key) <= 100
        assert 0 < client.ttl("saga:status:COMPENSATED") <= 100
        again = save(store, done, replace(done, status=SagaStatus.COMPENSATING))
        assert again is not None
        assert client.ttl(key) == -1
        save(store, again, replace(again, status=SagaStatus.STUCK))
        assert client.ttl(key) == -1

    def test_one_whose_result_is_still_to_be_stored_does_not(self, client: redis.Redis) -> None:
        """Its callers would never hear of it."""
        store = RedisStore(client, expires=100)
        first = create(store)
        key = f"saga:execution:{first.saga_id}"
        ended = replace(first, status=SagaStatus.COMPLETED, due_at=None, result_pending=True)
        done = save(store, first, ended)
        assert done is not None
        assert client.ttl(key) == -1
        save(store, done, replace(done, result_pending=False))
        assert 0 < client.ttl(key) <= 100

    def test_an_ended_saga_that_is_created_expires(self, client: redis.Redis) -> None:
        store = RedisStore(client, expires=100)
        ended = replace(make_execution(store), status=SagaStatus.COMPLETED, due_at=None)
        store.create(ended, "token")
        assert 0 < client.ttl(f"saga:execution:{ended.saga_id}") <= 100
        assert 0 < client.ttl("saga:status:COMPLETED") <= 100
        assert 0 < client.ttl("saga:name:contract:COMPLETED") <= 100

    def test_a_context_that_is_not_wanted_is_not_read(self, client: redis.Redis) -> None:
        store = RedisStore(client)
        first = create(store, blob="x" * 1_000_000)

        def sent() -> int:
            return int(client.info("stats")["total_net_output_bytes"])

        before = sent()
        found = store.load(first.saga_id, context=False)
        assert sent() - before < 20_000
        assert found is not None
        with pytest.raises(NotLoaded):
            found.values["blob"]

    def test_a_claim_of_a_worker_that_died_days_ago_is_reclaimed(self, client: redis.Redis) -> None:
        """All workers died on Friday evening, and the next one starts on Monday."""
        store = RedisStore(client)
        first = granted(claim(store, create(store), "friday"))
        store.heartbeat("friday", 6, ())
        store.heartbeat("holder", 6, [Reserved(f"{first.saga_id}~f0~1")])
        store.heartbeat("idle", 6, ())
        days_ago = dict.fromkeys(("friday", "holder", "idle"), store.now() - 3 * 86400)
        client.zadd("saga:instances", days_ago)

        assert sorted(store.heartbeat("monday", 6, ()).expired) == ["friday", "holder"]
        assert client.zscore("saga:instances", "idle") is None

        store.deregister("friday", store.claims_of("friday"))
        store.deregister("holder")
        assert store.heartbeat("monday", 6, ()).expired == ()

    @pytest.mark.parametrize("setting", ["min-replicas-to-write", "disk"])
    def test_a_server_that_cannot_write_now_is_unavailable(self, setting: str) -> None:
        """It has lost its replicas, or its disk is full: in both cases it does not stay so."""
        with EmbeddedValkey() as server, redis.Redis.from_url(server.url(0)) as client:
            store = RedisStore(client)
            first = create(store)
            refuse_writes(client, setting)
            with pytest.raises(StoreUnavailable):
                save(store, first, replace(first, values={"n": 1}))
            with pytest.raises(StoreUnavailable):
                claim(store, first)

    def test_a_saga_that_expired_is_not_due_any_more(self, client: redis.Redis) -> None:
        store = RedisStore(client)
        kept, expired = create(store), create(store)
        for each in (kept, expired):
            assert save(store, each, replace(each, due_at=store.now() - 1)) is not None
        assert sorted(store.due(10)) == sorted([kept.saga_id, expired.saga_id])
        client.delete(f"saga:execution:{expired.saga_id}")
        assert store.due(10) == [kept.saga_id]
        assert client.zrange("saga:due", 0, -1) == [kept.saga_id.encode()]

    def test_a_step_writes_what_it_changed_and_nothing_else(self, client: redis.Redis) -> None:
        store = RedisStore(client)
        first = create(store, big="x" * 100_000, small=1)
        before = client.info("stats")["total_net_input_bytes"]
        save(store, first, replace(first, values={**first.values, "small": 2}))
        written = client.info("stats")["total_net_input_bytes"] - before
        assert written < 10_000

    def test_keys_carry_the_prefix(self, client: redis.Redis) -> None:
        store = RedisStore(client, prefix="shop:")
        granted(claim(store, create(store)))
        store.heartbeat("instance", 6, [Reserved("a~f0~1")])
        assert client.keys()
        assert all(key.startswith(b"shop:") for key in client.scan_iter())

    def test_a_checkpoint_of_a_newer_version_is_refused(self, client: redis.Redis) -> None:
        store = RedisStore(client)
        first = create(store)
        client.hset(f"saga:execution:{first.saga_id}", "head", '{"version": 99, "status": "NEW"}')
        with pytest.raises(UnsupportedCheckpoint, match="version 99"):
            store.load(first.saga_id)

    def test_a_server_that_is_unavailable_is_reported_so(self) -> None:
        with EmbeddedValkey() as server:
            client = redis.Redis.from_url(server.url(0), retry=None)
        store = RedisStore(client)
        with pytest.raises(StoreUnavailable):
            store.load("any")
        with pytest.raises(StoreUnavailable):
            store.heartbeat("instance", 6, ())

    def test_the_time_is_known_while_the_server_is_unavailable(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with EmbeddedValkey() as server:
            store = RedisStore(redis.Redis.from_url(server.url(0), retry=None))
            before = store.now()
        monkeypatch.setattr(instances, "CLOCK_TTL", 0.0)
        assert before <= store.now() < before + 60
        with pytest.raises(StoreUnavailable):
            RedisStore(redis.Redis.from_url(stopped_server(), retry=None)).now()

    def test_a_server_that_refuses_is_an_error(self, client: redis.Redis) -> None:
        store = RedisStore(client)
        client.set("saga:execution:taken", "not a hash")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            store.load("taken")

    def test_threads_share_one_store(self, client: redis.Redis) -> None:
        store = RedisStore(client)
        first = create(store)
        waiting = [
            threading.Thread(target=lambda: store.wait(first.saga_id, 30), daemon=True)
            for _ in range(10)
        ]
        for thread in waiting:
            thread.start()
        save(store, first, replace(first, status=SagaStatus.COMPLETED, due_at=None))
        for thread in waiting:
            thread.join(30)
        assert not any(thread.is_alive() for thread in waiting)
