"""Which tasks a monitor shows as root and parent of a saga's tasks, and by what it finds them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, signals
from celery._state import _task_stack
from celery.app.task import Context

from celery_saga import Saga, SagaManager
from celery_saga.core.execution import SagaExecution
from celery_saga.runtime import runtime_of


@pytest.fixture
def app() -> Celery:
    app = Celery("lineage", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(saga_store_url="memory://")
    SagaManager(app)
    return app


@pytest.fixture
def sent() -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []

    def hear(headers: dict[str, Any], **kwargs: Any) -> None:
        found.append(headers)

    signals.before_task_publish.connect(hear)
    yield found
    signals.before_task_publish.disconnect(hear)


@pytest.fixture
def saga(app: Celery) -> Saga:
    @app.task(name="lineage.step", shared=False)
    def step(
        saga: Any = None, saga_id: Any = None, compensation: Any = None, n: int = 0
    ) -> None: ...

    return Saga("orders", app=app, steps=[step]).commit()


def links(headers: dict[str, Any]) -> tuple[str | None, str | None]:
    return headers["root_id"], headers["parent_id"]


def test_started_outside_of_tasks_the_first_step_is_the_root(saga, sent):
    result = saga.delay()
    assert links(sent[0]) == (f"{result.id}~f0~1", None)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"id": "one", "root_id": "all", "parent_id": "before"}, ("all", "one")),
        ({"id": "one", "root_id": None}, ("one", "one")),
        ({"id": "one", "called_directly": True}, None),
        ({"id": None}, None),
    ],
    ids=["in a chain", "without a root", "called as a function", "without an id"],
)
def test_started_in_a_task_it_belongs_to_that_task(app, saga, sent, request_, expected):
    @app.task(name="lineage.outer", shared=False, bind=True)
    def outer(self: Any) -> str:
        return saga.delay().id

    task = app.tasks["lineage.outer"]
    request = Context({"called_directly": False, **request_})

    # As a worker's tracer does with a message.
    _task_stack.push(task)
    task.request_stack.push(request)
    try:
        saga_id = task.run()
    finally:
        task.request_stack.pop()
        _task_stack.pop()
    assert links(sent[0]) == (expected or (f"{saga_id}~f0~1", None))


def test_the_checkpoint_keeps_it_and_has_nothing_where_there_is_nothing(app, saga):
    store = runtime_of(app).store
    found = store.load(saga.delay().id)
    assert found is not None
    assert not {"root_id", "parent_id"} & found.raw.keys()
    found = SagaExecution.from_raw({**found.raw, "root_id": "all", "parent_id": "one"})
    assert (found.root, found.parent_id) == ("all", "one")


def test_a_saga_is_found_by_name_and_id_whatever_its_parameters_are_called(app, saga, sent):
    result = saga.delay(saga="theirs", saga_id=7, compensation=True, n=3)
    shown = ast.literal_eval(sent[0]["kwargsrepr"])
    assert shown["saga"] == "orders"
    assert shown["saga_id"] == result.id
    assert (shown["step"], shown["n"]) == ("step", 3)


@pytest.mark.parametrize(
    ("args", "kwargs", "options", "shown"),
    [
        ((), {"saga": "orders"}, {}, ("()", {"saga": "orders"})),
        (
            ({"token": "s3cr3t"},),
            {"saga": "orders", "context": {"token": "s3cr3t"}},
            {},
            ("(<SagaContext>,)", {"saga": "orders", "context": "<SagaContext>"}),
        ),
        ((), {"saga": "o"}, {"argsrepr": "mine", "kwargsrepr": "{'x': 1}"}, ("mine", {"x": 1})),
    ],
)
def test_what_is_shown_of_a_start(app, sent, args, kwargs, options, shown):
    app.tasks["celery_saga.start"].apply_async(args, kwargs, **options)
    assert sent[0]["argsrepr"] == shown[0]
    assert ast.literal_eval(sent[0]["kwargsrepr"]) == shown[1]
