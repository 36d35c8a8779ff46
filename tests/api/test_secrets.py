"""Wherever a context, an argument or an execution is shown, ``saga_mask_keys`` hide its secrets."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery, signals

from celery_saga import Const, Saga, SagaContext, SagaManager, SagaRequest
from celery_saga.runtime import runtime_of

SECRET = "DE99SECRET"


@pytest.fixture
def app() -> Celery:
    app = Celery("secrets", broker="memory://", backend="cache+memory://", set_as_current=False)
    SagaManager(app)
    app.conf.update(saga_store_url="memory://", saga_mask_keys=["iban"])
    return app


@pytest.fixture
def pay(app: Celery) -> Any:
    @app.task(name="pay", shared=False)
    def pay(value: Any = None, other: Any = None) -> None: ...

    return app.tasks["pay"]


@pytest.fixture
def sent() -> Iterator[list[dict[str, Any]]]:
    """The headers of what is published."""
    found: list[dict[str, Any]] = []

    def hear(headers: dict[str, Any], **kwargs: Any) -> None:
        found.append(headers)

    signals.before_task_publish.connect(hear)
    yield found
    signals.before_task_publish.disconnect(hear)


@pytest.mark.parametrize(
    ("source", "context"),
    [("iban", {"iban": SECRET}), (("card", "iban"), {"card": {"iban": SECRET}})],
)
def test_an_argument_is_masked_by_where_it_comes_from(app, pay, sent, source, context):
    saga = Saga("pay", app=app)
    saga.local_step(pay, inputs={"value": source, "other": "order"})
    saga.commit().delay(order=7, **context)

    shown = ast.literal_eval(sent[0]["kwargsrepr"])
    assert (shown["value"], shown["other"]) == ("***", 7)


def test_a_retry_shows_what_the_step_showed(app, pay, sent):
    saga = Saga("pay", app=app)
    saga.local_step(pay, inputs={"value": "iban"})
    result = saga.commit().delay(iban=SECRET)
    (first,) = sent
    pay.push_request(
        **{**first, "kwargs": {"value": SECRET}, "args": []},
        headers={"saga": first["saga"]},
        called_directly=False,
    )

    pay.retry(throw=False, countdown=0)
    pay.retry(throw=False, countdown=0, kwargsrepr="mine")

    pay.pop_request()
    retry, chosen = sent[1:]
    assert retry["retries"] == 1
    assert ast.literal_eval(retry["kwargsrepr"])["saga_id"] == result.id
    assert [retry[name] for name in ("argsrepr", "kwargsrepr")] == [
        first[name] for name in ("argsrepr", "kwargsrepr")
    ]
    assert chosen["kwargsrepr"] == "mine"


def test_a_start_by_message_shows_no_context(app, pay, sent):
    signature = Saga("pay", app=app, steps=[pay]).commit().s(iban=SECRET)

    signature.apply_async()
    (signature | pay.s()).apply_async()

    assert [headers["kwargsrepr"] for headers in sent] == [
        "{'saga': 'pay', 'context': '<SagaContext>'}"
    ] * 2
    assert repr(signature) == "celery_saga.start(saga='pay', context=<SagaContext>)"
    assert signature.kwargs["context"] == {"iban": SECRET}


def test_the_repr_of_an_execution_has_no_constants_and_no_callbacks(app, pay):
    saga = Saga("pay", app=app)
    saga.local_step(pay, inputs={"value": Const(SECRET)})
    execution = saga.commit().delay().execution
    callback = pay.s(value=SECRET)

    called = replace(execution, callbacks={"callbacks": [dict(callback)]})

    assert execution.plan.steps[0].action.inputs[0].const == SECRET
    assert SECRET not in repr(called)
    assert "pay" in repr(called)


def test_contexts_and_requests_are_masked_as_the_settings_say(app):
    assert SECRET in repr(SagaContext(iban=SECRET))

    runtime_of(app).orchestrator.store.now()  # the settings are read when sagas are started or run

    assert repr(SagaContext(iban=SECRET, password="x")) == "SagaContext(iban='***', password='***')"
    assert SECRET not in repr(SagaRequest("bank", {"iban": SECRET}))


def test_one_word_may_be_a_text(app, pay, sent):
    app.conf.saga_mask_keys = "iban"
    saga = Saga("pay", app=app)
    saga.local_step(pay, inputs={"value": "iban", "other": "order"})
    saga.commit().delay(iban=SECRET, order=7)

    shown = ast.literal_eval(sent[0]["kwargsrepr"])
    assert (shown["value"], shown["other"]) == ("***", 7)


def test_an_error_of_celerys_that_has_the_arguments_in_it(app):
    app.conf.task_always_eager = True

    @app.task(name="patient", bind=True, max_retries=0, shared=False)
    def patient(self: Any, iban: str) -> None:
        raise self.retry()

    result = Saga("patient", app=app, steps=[patient]).commit().delay(iban=SECRET)

    error = result.execution.error
    assert error is not None
    assert error.message.startswith("Can't retry patient[")
    assert SECRET not in repr(result.execution) + error.message
