"""Asking how a saga is doing does not read its context; counted where it would be sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from celery_saga import Saga, SagaManager, SagaResult
from celery_saga.stores.redis import RedisStore
from celery_saga.testing.embedded import EmbeddedValkey
from tests.helpers import wait_for

LARGE = "x" * 1_000_000


class Bench:
    """A saga of an app without a worker, so that it stays where it is, and its server's books."""

    def __init__(self, valkey: EmbeddedValkey, limit: int | None = None) -> None:
        client = redis.Redis.from_url(valkey.url(8), max_connections=limit)
        client.flushdb()
        self.books = redis.Redis.from_url(valkey.url(8))
        self.app = Celery("glances", broker="memory://", set_as_current=False)
        SagaManager(self.app, storage=RedisStore(client))

        @self.app.task(name="glances.step", shared=False)
        def step(n: int) -> None: ...

        saga = Saga("glances", app=self.app)
        saga.local_step(step, read_only=True, name="only")
        self.result: SagaResult = saga.commit().delay(n=1, document=LARGE)

    def sent(self, call: Callable[[], Any]) -> int:
        """Bytes that the server sends in a call."""
        before = self._sent()
        call()
        return self._sent() - before

    def _sent(self) -> int:
        found: Any = self.books.info("stats")
        return int(found["total_net_output_bytes"])

    def close(self) -> None:
        self.app.close()
        self.books.close()


@pytest.fixture
def bench(valkey: EmbeddedValkey) -> Iterator[Bench]:
    made = Bench(valkey)
    yield made
    made.close()


def glances(result: SagaResult) -> dict[str, Callable[[], Any]]:
    return {
        "name": lambda: result.name,
        "state": lambda: result.state,
        "date_done": lambda: result.date_done,
        "ready": result.ready,
        "successful": result.successful,
        "failed": result.failed,
        "status": lambda: result.status,
        "progress": lambda: result.progress,
    }


@pytest.mark.parametrize(
    "name",
    ["name", "state", "date_done", "ready", "successful", "failed", "status", "progress"],
)
def test_a_glance_does_not_read_the_context(bench: Bench, name: str) -> None:
    ask = glances(bench.result)[name]
    ask()
    assert bench.sent(lambda: [ask() for _ in range(20)]) < len(LARGE) / 2


def test_the_context_is_read_where_it_is_asked_for(bench: Bench) -> None:
    assert bench.sent(lambda: bench.result.context) > len(LARGE)
    assert bench.result.context.document == LARGE


def test_what_a_result_reports(bench: Bench) -> None:
    assert (bench.result.status.value, bench.result.ready()) == ("RUNNING", False)
    assert dict(bench.result.progress) == {"only": "RUNNING"}
    bench.result.cancel()
    wait_for(bench.result.ready)
    assert bench.result.failed()


def test_who_waits_reads_a_large_one_twice_at_most(valkey: EmbeddedValkey) -> None:
    """Where no connection is left for notices, the store is asked again and again."""
    bench = Bench(valkey, limit=1)
    looks = threading.Semaphore(0)
    store: Any = bench.result._runtime.store
    load = store.load

    def counted(*args: Any, **options: Any) -> Any:
        looks.release()
        return load(*args, **options)

    store.load = counted

    def end() -> None:
        for _ in range(6):
            assert looks.acquire(timeout=30)
        bench.result.cancel()

    other = threading.Thread(target=end)
    other.start()
    try:
        found = bench.sent(lambda: bench.result.get(timeout=30, propagate=False))
    finally:
        other.join()
        bench.close()
    # The first look, cancel()'s own, and the answer.
    assert len(LARGE) < found < 4 * len(LARGE)
