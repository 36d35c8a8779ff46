"""A broker that is away is an answer, which comes at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from celery_saga import Saga, SagaManager
from celery_saga.broker import open_connection
from celery_saga.dispatch import CeleryDispatcher
from celery_saga.dispatcher import Backlog
from celery_saga.execution import Direction


@pytest.fixture
def app() -> Iterator[Celery]:
    """Nobody listens on its broker's port, and it would try for ever, as under gevent."""
    app = Celery("away", broker="redis://127.0.0.1:1/0", set_as_current=False)
    SagaManager(app)
    app.conf.update(saga_store_url="memory://", broker_connection_timeout=None)
    yield app
    app.close()


@pytest.mark.timeout(20)
def test_no_connection(app):
    with pytest.raises(OperationalError):
        open_connection(app)


@pytest.mark.timeout(20)
def test_what_is_in_its_queues_is_not_known(app):
    assert CeleryDispatcher(app).backlog({"celery"}) == Backlog()


@pytest.mark.parametrize(
    ("options", "routes", "queue"),
    [
        ({}, {}, "celery"),
        ({"queue": "steps"}, {}, "steps"),
        ({}, {"away.*": {"queue": "routed"}}, "routed"),
        ({"queue": "steps"}, {"away.*": {"queue": "routed"}}, "steps"),
        ({"exchange": "media", "routing_key": "video"}, {}, ""),
        ({}, {"away.*": {"exchange": "media", "routing_key": "video"}}, ""),
    ],
)
def test_the_queue_of_a_step(app, options, routes, queue):
    app.conf.task_routes = routes

    @app.task(name="away.step", shared=False)
    def step() -> None: ...

    saga = Saga("away", app=app)
    saga.local_step(step, **options)
    result = saga.commit().apply_async({}, countdown=60)
    execution = result.execution.with_step(0, epoch=1, outstanding=Direction.FORWARD)

    assert CeleryDispatcher(app).queue_of(execution, execution.slot(0)) == queue
