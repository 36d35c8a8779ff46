"""Messages that a worker keeps until its rate limit lets them through, and its heartbeats."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from celery import Celery
from celery.worker import state
from celery.worker.consumer.consumer import Consumer
from celery.worker.strategy import default
from kombu.utils.limits import TokenBucket

from celery_saga import SagaManager
from celery_saga.core.ports import Reserved
from celery_saga.runtime import runtime_of
from celery_saga.worker.heartbeat import Heartbeat
from celery_saga.worker.received import RateLimited

FIRST, *LATER = [f"saga{number}~f0~1" for number in range(3)]


class Limited:
    """What of Celery's consumer deals with rate limits; its pool never gets anything."""

    hostname, connection_errors, event_dispatcher = "h", (), None
    disable_rate_limits, _limit_order = False, 0
    _limit_task = Consumer._limit_task
    _limit_post_eta = Consumer._limit_post_eta
    _schedule_bucket_request = Consumer._schedule_bucket_request
    _limit_move_to_pool = Consumer._limit_move_to_pool

    def __init__(self) -> None:
        self.timer, self.qos, self.pool = MagicMock(), MagicMock(), MagicMock()
        self.apply_eta_task, self.on_task_request = MagicMock(), MagicMock()
        self.controller = SimpleNamespace(state=state)
        self.task_buckets: dict[str, Any] = defaultdict(lambda: None)
        self.task_buckets.update(pay=TokenBucket(0.001, capacity=1), free=None)


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("rates", broker="memory://", set_as_current=False)
    SagaManager(app)
    app.conf.saga_store_url = "memory://"
    state.reset_state()
    yield app
    state.reset_state()
    app.close()


@pytest.fixture
def consumer(app) -> Limited:
    """It has received three messages of one task, and may run one of them now."""

    @app.task(name="pay", shared=False)
    def pay() -> None: ...

    consumer = Limited()
    receive = default(pay, app, consumer)
    for task_id in (FIRST, *LATER, "of no saga"):
        made = app.amqp.as_task_v2(task_id, "pay", (), {})
        message = SimpleNamespace(
            headers=made.headers,
            properties=made.properties,
            payload=made.body,
            body=made.body,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_info={},
        )
        receive(message, None, MagicMock(), MagicMock(), [])
    return consumer


def reserved(app: Celery, worker: Any) -> frozenset[Reserved]:
    """What a worker has reserved, by its first heartbeat."""
    runtime = runtime_of(app)
    runtime.new_instance()
    heartbeat = Heartbeat(runtime, worker)
    heartbeat._threads = []
    heartbeat.start()
    return runtime.store.reserved_by()[runtime.instance]


def test_the_heartbeat_reports_them(app, consumer):
    deferred = {Reserved(task_id, deferred=True) for task_id in LATER}
    worker = SimpleNamespace(consumer=consumer)
    assert reserved(app, worker) == {Reserved(FIRST), *deferred}


def test_those_of_an_older_limit_are_still_deferred(consumer):
    """``app.control.rate_limit()`` makes new buckets; what is in the old ones still comes."""
    rates = RateLimited(SimpleNamespace(consumer=consumer))
    assert rates.task_ids() == set(LATER)
    old = consumer.task_buckets["pay"]
    consumer.task_buckets["pay"] = TokenBucket(1.0, capacity=1)
    assert rates.task_ids() == set(LATER)
    old.clear_pending()
    assert rates.task_ids() == set()


def test_a_dropped_bucket_is_forgotten(consumer):
    """After a connection was lost, for one: the broker gives its messages to others."""
    rates = RateLimited(SimpleNamespace(consumer=consumer))
    assert rates.task_ids() == set(LATER)
    consumer.task_buckets["pay"] = None
    consumer.timer = None  # Celery's has kept the bucket
    gc.collect()
    assert rates.task_ids() == set()


def odd_bucket() -> TokenBucket:
    bucket: Any = TokenBucket(1.0)
    for item in (7, None, (), ("no request", 1), (SimpleNamespace(id=None), 1)):
        bucket.add(item)
    return bucket


@pytest.mark.parametrize(
    "worker",
    [
        None,
        SimpleNamespace(),
        SimpleNamespace(consumer=None),
        SimpleNamespace(consumer=SimpleNamespace()),
        SimpleNamespace(consumer=SimpleNamespace(task_buckets={"a": None, "b": object()})),
        SimpleNamespace(consumer=SimpleNamespace(task_buckets=["of another kind"])),
        SimpleNamespace(consumer=SimpleNamespace(task_buckets={"a": odd_bucket()})),
    ],
    ids=["none", "bare", "idle", "no buckets", "odd values", "a list", "an odd bucket"],
)
def test_a_worker_that_has_no_such_buckets_has_deferred_nothing(worker):
    assert RateLimited(worker).task_ids() == set()
