"""Sagas on pytest-celery's own containers; it needs a Docker engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pytest_celery import CeleryTestSetup, CeleryWorkerContainer

import celery_saga
from celery_saga import Saga, SagaManager
from celery_saga.runtime import runtime_of
from tests.chaos import app
from tests.chaos_docker import steps
from tests.helpers import wait_for

PACKAGE = Path(celery_saga.__file__).parent


@pytest.fixture
def default_worker_app_module() -> ModuleType:
    return app


@pytest.fixture
def default_worker_tasks() -> set[ModuleType]:
    return {steps, *CeleryWorkerContainer.tasks_modules()}


@pytest.fixture
def default_worker_initial_content(
    default_worker_initial_content: Mapping[str, bytes],
) -> dict[str, bytes]:
    """The stock image has Celery, but not this library: its sources come with the volume."""
    own = {
        f"celery_saga/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes()
        for path in PACKAGE.rglob("*.py")
    }
    return {**default_worker_initial_content, **own}


@pytest.fixture
def trips(celery_setup: CeleryTestSetup) -> Any:
    """Makes sagas of ``(step name, task, compensation)`` or ``(step name, task)``."""
    SagaManager(celery_setup.app)

    def make(*parts: Any) -> Saga:
        saga = Saga("trip", app=celery_setup.app)
        for name, task, *compensation in parts:
            step = saga.local_step(task, name=name)
            if compensation:
                step.on_failure(compensation[0])
        return saga.commit()

    return make


def test_it_completes(trips):
    result = trips(("flight", steps.book, steps.cancel), ("hotel", steps.book)).delay()
    assert result.get(timeout=60)["booked"] is True


def test_it_is_compensated(trips):
    result = trips(("flight", steps.book, steps.cancel), ("hotel", steps.decline)).delay()
    result.get(timeout=60, propagate=False)
    assert result.status == "COMPENSATED"
    assert result.progress["flight"] == "COMPENSATED"


def test_a_container_that_is_killed(celery_setup: CeleryTestSetup, trips):
    """The step runs again when the worker comes back."""
    result = trips(("flight", steps.book, steps.cancel)).delay(seconds=3)
    store = runtime_of(celery_setup.app).store
    wait_for(lambda: store.load(result.id).steps[0].claim, 30, description="the step is claimed")
    celery_setup.worker.kill()

    celery_setup.worker.restart()

    assert result.get(timeout=60)["booked"] is True
    assert result.execution.steps[0].lost == 1
