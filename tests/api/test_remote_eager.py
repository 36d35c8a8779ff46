"""Remote steps in eager mode: the participant's task and its reply run in the same call."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
from celery import Celery
from celery.exceptions import Reject

from celery_saga import RemoteSagaStep, Saga, SagaManager, SagaRequest, SagaResult, saga_step
from celery_saga.core.events import StepFailed
from celery_saga.errors import StoreUnavailable
from celery_saga.runtime import runtime_of

#: A start by a signature finds its saga by the name.
_numbers = itertools.count()


@saga_step
def ask(context: Any) -> SagaRequest:
    context.changed = "is discarded"
    return SagaRequest("stock.reserve", {"n": context["n"]})


@saga_step
def ask_back(context: Any) -> SagaRequest:
    return SagaRequest.call("stock.release", n=context["n"])


@saga_step
async def took(context: Any, response: Any) -> Any:
    context["got"] = [await response.content(), response.ok]
    return context


@saga_step
def refused(context: Any, response: Any) -> Any:
    return {**context, "got": [response.content(), response.ok]}


@pytest.fixture(params=[True, False], ids=["always eager", "apply"])
def app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    with Celery("shop", set_as_current=False) as app:
        app.conf.update(
            broker_url="memory://",
            result_backend="cache+memory://",
            saga_store_url="memory://",
            task_always_eager=request.param,
            task_ignore_result=False,
        )
        SagaManager(app)
        app.released = []

        @app.task(name="stock.reserve", shared=False)
        def reserve(line: Any) -> Any:
            if line["n"] == 4:
                raise ValueError("out of order")
            if line["n"] > 5:
                return {"saga_response": {"status": 400, "content": "not so many"}}
            return line["n"] * 10

        @app.task(name="stock.release", shared=False)
        def release(n: int) -> None:
            app.released.append(n)

        @app.task(name="pay", shared=False, acks_late=True)
        def pay(card: str = "good") -> None:
            if card != "good":
                raise ValueError("declined")

        yield app


def run(app: Celery, step: RemoteSagaStep, **context: Any) -> SagaResult:
    saga = Saga(f"order-{next(_numbers)}", app=app)
    saga.remote_step(step)
    saga.local_step(app.tasks["pay"], returns=False)
    saga.commit()
    if app.conf.task_always_eager:
        return saga.delay(**context)
    return SagaManager(app).get(saga.s(**context).apply().id)


def step(**about: Any) -> RemoteSagaStep:
    return RemoteSagaStep(ask, took, name="stock", on_failure=ask_back, **about)


def test_a_reply(app: Celery) -> None:
    result = run(app, step(), n=2)
    assert result.status == "COMPLETED"
    assert dict(result.context) == {"n": 2, "got": [20, True]}


def test_a_refusal_with_a_handler(app: Celery) -> None:
    result = run(app, step().on_error(refused), n=6)
    assert (result.status, result.context["got"]) == ("COMPLETED", ["not so many", False])


@pytest.mark.parametrize(
    ("context", "released"),
    [({"n": 6}, []), ({"n": 4}, [4]), ({"n": 2, "card": "bad"}, [2])],
    ids=["a refusal", "a failure", "a later step fails"],
)
def test_a_rollback(app: Any, context: Any, released: list[int]) -> None:
    result = run(app, step(), **context)
    assert (result.status, app.released) == ("COMPENSATED", released)


def test_a_store_that_does_not_take_the_request_fails_no_step(app: Celery) -> None:
    """The delivery is returned to the broker, and the step's outcome counts as unknown."""
    orchestrator, seen = runtime_of(app).orchestrator, list[Any]()
    apply = orchestrator.apply

    def unavailable_once(saga_id: str, event: Any, *args: Any, **options: Any) -> Any:
        seen.append(event)
        if getattr(event, "request", None) is not None and seen.count(event) == 1:
            raise StoreUnavailable("no answer")
        return apply(saga_id, event, *args, **options)

    with mock.patch.object(orchestrator, "apply", unavailable_once), suppress(Reject):
        run(app, step(), n=1)
    assert any(getattr(event, "request", None) is not None for event in seen)
    assert not [event for event in seen if isinstance(event, StepFailed)]
