"""What is kept of a request, and what is stored at the end; on a backend in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult
from kombu import serialization
from kombu.exceptions import EncodeError

from celery_saga import SagaCompensated, SagaManager
from celery_saga.core.execution import SagaExecution
from celery_saga.messaging import outcome, results
from tests.core.scenario import Scenario


@pytest.fixture
def app() -> Celery:
    app = Celery("results", backend="cache+memory://", set_as_current=False)
    SagaManager(app)
    return app


def ended(script: str = "start, f0 ok k=1", result: int = 1) -> SagaExecution:
    execution = Scenario.of("a", result=result).play(script).execution
    return replace(execution, saga_id=uuid4().hex)  # all backends in memory are one


def stored(app: Celery, execution: SagaExecution) -> Any:
    results.publish_and_notify(app, execution)
    return AsyncResult(execution.saga_id, app=app)


def test_a_completed_saga(app: Celery) -> None:
    assert stored(app, ended()).get() == {"input": 1, "k": "1"}


def test_a_compensated_saga(app: Celery) -> None:
    with pytest.raises(SagaCompensated):
        stored(app, ended("start, f0 fails")).get()


def test_a_result_that_is_not_wanted(app: Celery) -> None:
    assert stored(app, replace(ended(), wants_result=False)).state == "PENDING"
    failed = replace(ended("start, f0 fails"), wants_result=False)
    assert stored(app, failed).state == "PENDING"


def test_a_result_that_cannot_be_encoded_is_a_failure(app: Celery) -> None:
    def picky(value: Any) -> str:
        if isinstance(value, dict) and "k" in (value.get("result") or ()):
            raise EncodeError("no k")
        return json.dumps(value)

    serialization.register("picky", picky, json.loads, "application/x-picky", "utf-8")
    try:
        app.conf.update(result_serializer="picky", result_accept_content=["picky"])
        found = stored(app, ended())
        assert found.state == "FAILURE"
        assert "no k" in str(found.result)
    finally:
        serialization.unregister("picky")


def test_what_is_kept_of_a_request_is_plain_json_and_comes_back() -> None:
    one, at = UUID(int=1), datetime(2026, 1, 2, tzinfo=timezone.utc)
    link = {"task": "t", "args": (one,), "kwargs": {"at": at}, "options": {}}
    request = Context(
        {
            "id": "s",
            "callbacks": [link],
            "errbacks": None,
            "group": "g",
            "group_index": 0,
            "delivery_info": {"priority": 3},
            "root_id": "r",
            "something else": 7,
        }
    )
    callbacks = results.callbacks_of(request)
    assert json.loads(json.dumps(callbacks)) == callbacks
    back: Any = outcome.request_of(replace(ended(), callbacks=callbacks))
    assert back.callbacks == [{**link, "args": [one]}]
    assert (back.group, back.group_index, back.root_id) == ("g", 0, "r")
    assert back.delivery_info == {"priority": 3}
    assert back.errbacks is None
    assert set(callbacks) == {"callbacks", "group", "group_index", "root_id", "priority"}


def test_who_wants_no_result(app: Celery) -> None:
    assert results.wanted(app)
    assert not results.wanted(app, ignore_result=True)
    app.conf.task_always_eager = True
    assert not results.wanted(app)
    app.conf.task_store_eager_result = True
    assert results.wanted(app)
    app.conf.task_ignore_result = True
    assert not results.wanted(app)
    assert not results.wanted(Celery("bare", set_as_current=False))


def test_what_follows_and_cannot_be_called_has_failed(app: Celery) -> None:
    """As in Celery; otherwise the notification of the others would never end."""

    @app.task(name="results.takes_nothing", shared=False)
    def takes_nothing() -> None:
        pass

    following = takes_nothing.s().set(task_id=f"next-{uuid4().hex}")
    execution = replace(ended(), callbacks={"chain": [dict(following)]})

    result = stored(app, execution)

    assert result.get() == {"input": 1, "k": "1"}  # the saga itself is through
    with pytest.raises(TypeError):
        AsyncResult(following.options["task_id"], app=app).get()
