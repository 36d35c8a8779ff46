"""Eager sagas of several threads, without servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("eager", broker="memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, saga_store_url="memory://")
    SagaManager(app)
    yield app
    app.close()


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
