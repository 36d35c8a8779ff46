"""The codec of an app: what a saga's values are in its checkpoint and its messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager
from celery_saga.core.context.codec import JSON, Codec
from celery_saga.core.context.data import Values, encoded, values_of
from celery_saga.runtime import runtime_of


class Wrapped(Codec):
    """Writes each value into an object of its own, as an encrypting codec would."""

    def dumps(self, value: Any, path: str = "") -> str:
        return json.dumps({"wrapped": super().dumps(value, path)})

    def loads(self, text: str | bytes) -> Any:
        return super().loads(json.loads(text)["wrapped"])


WRAPPED = Wrapped()
CONTEXT = {"order_id": 7, "names": ["a", "b"]}


class TestValues:
    def test_they_keep_their_codec(self):
        values = encoded(CONTEXT, WRAPPED)
        assert values.text("order_id") == '{"wrapped": "7"}'
        for each in (values, Values(values), encoded(values), values.changed({"order_id": 7})):
            assert (dict(each), each.codec) == (CONTEXT, WRAPPED)

    def test_by_default_they_are_plain_json(self):
        assert (encoded(CONTEXT).codec, encoded(CONTEXT).text("order_id")) == (JSON, "7")


@pytest.fixture(params=["memory", "redis"])
def app(request):
    app = Celery("coded", broker="memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, saga_store_url="memory://")
    if request.param == "redis":
        app.conf.saga_store_url = request.getfixturevalue("valkey").url()
    SagaManager(app)
    runtime_of(app).codec = WRAPPED
    return app


def test_a_run(app):
    @app.task(name="coded.pay", shared=False)
    def pay() -> dict[str, int]:
        return {"payment_id": 8}

    result = Saga("coded", app=app, steps=[pay]).commit().delay(**CONTEXT)

    assert result.context == {**CONTEXT, "payment_id": 8}
    execution = runtime_of(app).store.load(result.id)
    assert execution is not None
    texts = values_of(execution.values).texts()
    assert texts.keys() == {"order_id", "names", "payment_id"}
    assert {json.loads(text).keys() == {"wrapped"} for text in texts.values()} == {True}


def test_the_message_has_the_texts_of_the_checkpoint(app):
    @app.task(name="coded.take", shared=False)
    def take(order_id: Any, names: Any) -> None:
        taken.append((order_id, names))

    taken: list[Any] = []
    saga = Saga("coded too", app=app)
    saga.local_step(take, inputs={"names": ("order_id", "names")}, read_only=True)
    saga.commit().delay(order_id={"names": [1]})

    ((order_id, names),) = taken
    assert json.loads(order_id["wrapped"]) == {"names": [1]}
    assert json.loads(names["wrapped"]) == [1]
