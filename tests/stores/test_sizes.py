"""The limit of a context, looked up in a store that keeps its keys apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from celery_saga import Saga, SagaManager
from celery_saga.errors import StoreUnavailable
from celery_saga.runtime import runtime_of
from celery_saga.stores.redis import RedisStore
from celery_saga.testing.embedded import EmbeddedValkey


@pytest.fixture
def app(valkey: EmbeddedValkey) -> Iterator[Celery]:
    app = Celery("sizes", broker="memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, saga_context_limit=1_000)
    SagaManager(app, storage=RedisStore(redis.Redis.from_url(valkey.url(6))))
    yield app
    app.close()


def test_a_store_that_is_unavailable_when_a_size_is_read_fails_no_step(app: Celery) -> None:
    troubles: list[Exception] = []

    @app.task(name="sizes.replaces", shared=False)
    def replaces() -> str:
        orchestrator = runtime_of(app).orchestrator
        load = orchestrator.load

        def sometimes(*args: Any, **options: Any) -> Any:
            if troubles:
                raise troubles.pop()
            return load(*args, **options)

        orchestrator.load = sometimes  # type: ignore[method-assign]
        return "y" * 600

    saga = Saga("sizes", app=app)
    saga.local_step(replaces, returns="document")
    saga.commit()
    assert saga.delay(document="x" * 600).status.value == "COMPLETED"  # its plan is known then

    troubles.append(StoreUnavailable("refused"))
    result = saga.delay(document="x" * 600)

    assert (result.status.value, troubles) == ("COMPLETED", [])
