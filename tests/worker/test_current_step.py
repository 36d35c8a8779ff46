"""What a body can read about itself where no saga runs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_saga import Saga, SagaInfo, SagaManager, saga_info


@pytest.fixture(params=["with the plugin", "without"])
def app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    app = Celery("about", broker="memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, saga_store_url="memory://")
    if request.param == "with the plugin":
        SagaManager(app)
    yield app
    app.close()


@pytest.fixture
def asks(app: Celery) -> Any:
    @app.task(name="about.asks", shared=False)
    def asks() -> tuple[SagaInfo, SagaInfo]:
        return saga_info(), saga_info()

    return asks


@pytest.mark.parametrize("way", ["delay", "apply"])
def test_a_task_gets_its_id(asks: Any, way: str) -> None:
    result = getattr(asks, way)()
    one, other = result.get()
    assert one == other
    assert (one.saga_id, one.saga_name, one.step, one.direction, one.attempt) == (
        *(None, "", "", "f", 1),
    )
    assert one.idempotency_key == one.forward_key == result.id


def test_a_retry_gets_the_same_key(app: Celery) -> None:
    seen: list[SagaInfo] = []

    @app.task(name="about.retries", shared=False, bind=True, max_retries=2)
    def retries(self: Any) -> None:
        seen.append(saga_info())
        if len(seen) < 3:
            raise self.retry(countdown=0)

    result = retries.delay()
    assert [info.idempotency_key for info in seen] == [result.id] * 3
    assert [info.attempt for info in seen] == [1, 2, 3]


def test_a_task_that_is_called_as_a_function_has_a_key_of_the_call(asks: Any) -> None:
    one, other = asks()
    again, _ = asks()
    assert one == other
    assert one.idempotency_key
    assert one.idempotency_key != again.idempotency_key


def test_what_a_task_calls_is_a_part_of_it(app: Celery, asks: Any) -> None:
    @app.task(name="about.calls", shared=False)
    def calls() -> tuple[SagaInfo, SagaInfo]:
        found: tuple[SagaInfo, SagaInfo] = asks()
        return found

    result = calls.delay()
    assert result.get()[0].idempotency_key == result.id


def test_a_task_that_a_step_launches_gets_its_own_id(app: Celery, asks: Any) -> None:
    seen: list[tuple[str, SagaInfo]] = []

    @app.task(name="about.launches", shared=False)
    def launches() -> None:
        result = asks.delay()
        seen.append((result.id, result.result[0]))
        seen.append((saga_info().idempotency_key, asks()[0]))

    SagaManager(app)
    saga = Saga("about", app=app)
    saga.local_step(launches, read_only=True)
    assert saga.commit().delay().status.value == "COMPLETED"
    (task_id, launched), (key, called) = seen
    assert (launched.saga_id, launched.idempotency_key) == (None, task_id)
    assert (called.step, called.idempotency_key) == ("launches", key)


def test_where_no_task_runs_it_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"no task runs in this thread"):
        saga_info()


def test_a_thread_of_a_body_is_refused_with_advice(app: Celery) -> None:
    """It would have another key each time, and its effect be there twice."""
    raised: list[Any] = []

    def work() -> None:
        try:
            saga_info()
        except RuntimeError as error:
            raised.append(error)

    @app.task(name="about.threads", shared=False)
    def threads() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    threads.delay()
    assert len(raised) == 1
