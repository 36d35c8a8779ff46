"""Sagas of an app whose result backend, where they are kept, may have few connections."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from celery_saga import Saga
from tests.worker.apps.steps import compensation, late
from tests.worker.test_pools import POOLS

pytestmark = pytest.mark.worker

FEW = {"redis_max_connections": 1, "saga_store_timeout": 5.0}


def chain_of_three(app: Any) -> Saga:
    saga = Saga("few", app=app)
    for name in "abc":
        saga.local_step(late, name=name).on_failure(compensation)
    return saga.commit()


@pytest.mark.parametrize("options", [pytest.param((), id="prefork"), *POOLS])
def test_sagas_run_over_a_single_connection(site, options):
    """Each step once: a busy pool does not make it return a delivery."""
    worker = site.worker(*options, "-c", "8", **FEW)
    saga = chain_of_three(site.new_app("few", **FEW))
    run = uuid.uuid4().hex[:8]

    with ThreadPoolExecutor(8) as threads:
        good = list(
            threads.map(lambda n: saga.apply_async({}, saga_id=f"few-{run}-{n}"), range(12))
        )
        bad = list(threads.map(lambda n: saga.delay(fail=["c/f"]), range(4)))
        ended = list(threads.map(lambda each: site.settled(each), [*good, *bad]))

    assert ended == ["COMPLETED"] * 12 + ["COMPENSATED"] * 4
    for each in good:
        assert site.journal.began(each.id) == ["a/f", "b/f", "c/f"]
    for each in bad:
        assert site.journal.began(each.id) == ["a/f", "b/f", "c/f", "b/c", "a/c"]
    assert "StoreUnavailable" not in worker.text()


@pytest.mark.parametrize("taken", [None, "taken"], ids=["an id of its own", "a given id"])
def test_a_start_waits_for_a_connection(site, taken, monkeypatch):
    """Celery's own look for an old result does not wait; ours, with an id given, does."""
    app = site.new_app("few", **FEW)
    saga = chain_of_three(app)
    saga.delay()  # everything is made
    client = app.backend.client  # type: ignore[attr-defined]
    pool, found_busy = client.connection_pool, threading.Event()
    ours, get = pool.get_connection(), pool.get_connection

    def watched(*args: Any, **options: Any) -> Any:
        try:
            return get(*args, **options)
        except ConnectionError:
            found_busy.set()
            threading.Thread(target=pool.release, args=(ours,)).start()
            raise

    monkeypatch.setattr(pool, "get_connection", watched)
    started = saga.apply_async({}, saga_id=taken)

    assert found_busy.is_set()
    site.worker()
    assert site.settled(started) == "COMPLETED"
