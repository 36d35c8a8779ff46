"""An unavailable broker is reported at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery
from celery.app.routes import MapRoute
from kombu import Exchange
from kombu.exceptions import OperationalError

from celery_saga import Saga, SagaManager, SagaResult
from celery_saga.core.events import Dispatch, MessageState
from celery_saga.core.execution import Direction, SagaExecution, StepRef
from celery_saga.core.plan import Call
from celery_saga.core.ports import Backlog
from celery_saga.messaging.broker import lacks_exchange, open_connection
from celery_saga.messaging.inspection import CeleryInspector
from celery_saga.messaging.publisher import CeleryPublisher
from celery_saga.messaging.routing import queue_of
from celery_saga.runtime import runtime_of


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose broker's port is closed, and which would retry for ever, as under gevent."""
    app = Celery("unreachable", broker="redis://127.0.0.1:1/0", set_as_current=False)
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
    assert CeleryInspector(app, CeleryPublisher(app)).backlog({"celery"}) == Backlog()


whole_way = {"exchange": "media", "routing_key": "video"}


def by_tenant(name, args, kwargs, options, task=None, **more):
    """A route that gets no message, and fails."""
    return {"queue": f"tenant-{kwargs['tenant']}"}


def falling_back(name, args, kwargs, options, task=None, **more):
    """One that then names the wrong queue."""
    return {"queue": f"tenant-{kwargs['tenant']}"} if "tenant" in kwargs else None


class Failing(MapRoute):
    """A route of a user's own class."""

    def __call__(self, name, *args, **kwargs):
        raise LookupError(name)


@pytest.mark.parametrize(
    ("options", "routes", "queue"),
    [
        ({}, {}, "celery"),
        ({"queue": "steps"}, {}, "steps"),
        ({}, {"unreachable.*": {"queue": "routed"}}, "routed"),
        ({"queue": "steps"}, {"unreachable.*": {"queue": "routed"}}, "steps"),
        ({"exchange": "media", "routing_key": "video"}, {}, ""),
        ({}, {"unreachable.*": {"exchange": "media", "routing_key": "video"}}, ""),
        (whole_way, {}, ""),
        ({"queue": "steps", **whole_way}, {}, ""),
        ({}, (by_tenant,), ""),
        ({"queue": "steps"}, (by_tenant,), "steps"),
        ({}, ({"other.*": {"queue": "others"}}, by_tenant), ""),
        ({}, (falling_back,), ""),
        ({}, (Failing({}),), ""),
        ({"queue": "steps"}, ("tests.messaging.test_broker.by_tenant",), "steps"),
        ({}, ("tests.messaging.test_broker.by_tenant",), ""),
    ],
)
def test_the_queue_of_a_step(app, options, routes, queue):
    assert looked_for(app, options, routes, {}) == queue


@pytest.mark.parametrize(
    ("of_task", "options", "routes", "queue"),
    [
        ({"queue": "own"}, {}, {}, "own"),
        ({"queue": "own"}, {}, (by_tenant,), "own"),
        ({"routing_key": "video"}, {}, {}, ""),
        ({"exchange": "media"}, {}, {}, ""),
        ({"routing_key": "video"}, {"queue": "steps"}, {}, "steps"),
        (whole_way, {"queue": "steps"}, {}, ""),
        ({"routing_key": "video"}, {}, {"unreachable.*": {"queue": "routed"}}, ""),
    ],
)
def test_the_queue_of_a_step_whose_task_says_where_it_goes(app, of_task, options, routes, queue):
    assert looked_for(app, options, routes, of_task) == queue


def test_a_route_to_a_queue_that_the_app_does_not_have(app):
    """Celery refuses to send there, and the saga's deadline has to be noticed all the same."""
    app.conf.update(
        task_create_missing_queues=False, task_routes={"unreachable.*": {"queue": "nowhere"}}
    )
    assert queue_of(app, Call("unreachable.step")) == ""


def looked_for(app, options, routes, of_task) -> str:
    """Where the sweep looks for the first message of a saga."""
    app.conf.task_routes = routes

    @app.task(name="unreachable.step", shared=False, **of_task)
    def step() -> None: ...

    saga = Saga("unreachable", app=app)
    saga.local_step(step, **options)
    plan = runtime_of(app).plans.of(saga.commit())
    ref = StepRef((0,), Direction.FORWARD, 1)
    execution = SagaExecution.create("unreachable", plan, {}, at=0.0).sent(ref)
    return CeleryInspector(app, CeleryPublisher(app)).queue_of(execution, execution.ref(0))


def test_an_exchange_that_a_broker_lacks() -> None:
    app = Celery("exchanges", broker="memory://", set_as_current=False)
    assert lacks_exchange(app, "unknown")
    with app.connection_for_write() as connection:
        Exchange("declared", channel=connection.default_channel).declare()
    assert not lacks_exchange(app, "declared")
    app.close()


def test_an_unavailable_broker_is_not_asked_for_an_exchange() -> None:
    app = Celery("exchanges", broker="redis://127.0.0.1:1", set_as_current=False)
    assert not lacks_exchange(app, "unknown")


def test_what_a_broker_did_not_take_is_known_as_unsent() -> None:
    """And does not count as received by a worker without the plugin."""
    app = Celery("unsent", broker="redis://127.0.0.1:1", set_as_current=False)
    app.conf.update(saga_store_url="memory://", task_publish_retry=False)
    SagaManager(app)

    @app.task(shared=False)
    def do() -> None: ...

    runtime = runtime_of(app)
    plan = runtime.plans.of(Saga("unsent", app=app, steps=[do]).commit())
    runtime.orchestrator.start(plan, "unsent", {}, token="t")
    result, publisher = SagaResult(runtime, "unsent"), runtime.orchestrator.publisher
    inspector = runtime.inspector(runtime.orchestrator)
    ref = StepRef((0,), Direction.FORWARD, 1)
    assert inspector.not_sent(result.execution, ref) is MessageState.UNSENT
    app.conf.task_always_eager = True  # the next time it is taken
    publisher.publish(publisher.message(result.execution, Dispatch(ref)))
    assert result.status == "COMPLETED"
    assert inspector.not_sent(result.execution, ref) is None
