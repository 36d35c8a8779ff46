"""A broker that is away is an answer, which comes at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from celery_saga import Saga, SagaManager
from celery_saga.broker import handed_out, open_connection
from celery_saga.dispatch import CeleryDispatcher
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
def test_whether_a_queue_is_empty_is_not_known(app):
    @app.task(name="away.step", shared=False)
    def step() -> None: ...

    result = Saga("away", app=app, steps=[step]).commit().apply_async({}, countdown=60)
    execution = result.execution.with_step(0, epoch=1, outstanding=Direction.FORWARD)

    assert CeleryDispatcher(app).queue_is_empty(execution, execution.slot(0)) is None


@pytest.mark.timeout(20)
def test_what_workers_have_taken_is_not_known(app):
    assert handed_out(app) == frozenset()


def test_a_broker_that_delivers_again_by_itself():
    app = Celery("memory", broker="memory://", set_as_current=False)
    assert handed_out(app) == frozenset()
