"""Eager sagas of several threads, without servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, Task
from celery.result import _set_task_join_will_block

from celery_saga import Saga, SagaManager, saga_info
from celery_saga.errors import StoreUnavailable
from celery_saga.runtime import runtime_of


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("eager", broker="memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, saga_store_url="memory://")
    SagaManager(app)
    yield app
    app.close()
    # Celery sets this for the time of an eager call, and of two threads at once it puts back what
    # the other one had set: every later get() in this process would be refused.
    _set_task_join_will_block(False)


def test_each_thread_runs_its_own_sagas_to_their_ends(app: Celery) -> None:
    together = threading.Barrier(2)
    ran: list[tuple[int, str]] = []

    @app.task(name="eager.step", shared=False)
    def step(number: int) -> None:
        together.wait(10)  # both threads are in a step at once
        ran.append((number, threading.current_thread().name))

    saga = Saga("eager", app=app, steps=[step]).commit()

    def start(number: int) -> tuple[str, str]:
        return saga.delay(number=number).status.value, threading.current_thread().name

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(start, (1, 2)))

    assert [status for status, _ in ended] == ["COMPLETED", "COMPLETED"]
    assert sorted(ran) == [(1, ended[0][1]), (2, ended[1][1])]


def test_a_task_that_a_step_launches_is_not_the_step(app: Celery) -> None:
    """A worker would run it by itself, and it would know of no saga."""
    seen: list[Any] = []

    @app.task(name="eager.other", shared=False)
    def other() -> None:
        seen.append(saga_info())

    @app.task(name="eager.launches", shared=False)
    def launches() -> None:
        other.delay()
        other.apply()
        seen.append(saga_info())
        other()  # a call, which is a part of the step

    assert Saga("launches", app=app, steps=[launches]).commit().delay().status == "COMPLETED"
    assert [info.saga_id for info in seen[:2]] == [None, None]
    assert [info.step for info in seen[2:]] == ["launches"] * 2


def test_a_body_gets_the_same_each_time(app: Celery) -> None:
    """A barrier distinguishes one body from the next by it."""
    seen: list[Any] = []

    @app.task(name="eager.asks", shared=False)
    def asks() -> None:
        seen.extend((saga_info(), saga_info()))

    Saga("asks", app=app, steps=[asks, asks]).commit().delay()

    assert seen[0] is seen[1]
    assert seen[2] is seen[3]
    assert seen[1] is not seen[2]


def test_a_soft_limit_that_comes_when_the_body_is_over_is_none(app: Celery) -> None:
    """The step is through, and only its report waits for the store."""

    @app.task(name="eager.over", shared=False)
    def over() -> None:
        store, troubles = (
            runtime_of(app).store,
            [StoreUnavailable("unavailable"), SoftTimeLimitExceeded()],
        )

        def save(*args: Any, **options: Any) -> Any:
            if troubles:
                raise troubles.pop(0)
            return type(store).save(store, *args, **options)

        store.save = save  # type: ignore[method-assign]

    result = Saga("eager", app=app, steps=[over]).commit().delay()

    assert result.status.value == "COMPLETED"


def test_a_task_whose_class_is_of_a_task_that_was_bound_is_a_step(app: Celery) -> None:
    """Celery takes such a class for bound, and asks no annotation for it."""

    class Base(Task):
        name = "eager.base"

        def run(self) -> None: ...

    class Own(Base):
        name = "eager.own"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.run(*args, **kwargs)

    app.register_task(Base())
    own = app.register_task(Own())

    assert Saga("own", app=app, steps=[own]).commit().delay().status == "COMPLETED"
