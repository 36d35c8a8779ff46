"""pytest-celery as it comes, on Docker: nothing is overridden but the choice of one broker.

Without an engine these tests are skipped, for the reason that the engine's client gives; with
``SAGA_REQUIRE_DOCKER=1`` they are run all the same, and fail.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    RedisTestBackend,
    RedisTestBroker,
)

HERE = Path(__file__).parent


@functools.cache
def no_engine() -> str | None:
    """Why no engine answers, or nothing."""
    try:
        import docker

        docker.from_env(timeout=3).ping()
    except Exception as error:  # the client's own, and those of what it is made of
        return f"{type(error).__name__}: {error}"[:200]
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.docker)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: those of a session ask the engine at once."""
    if HERE not in item.path.parents or os.environ.get("SAGA_REQUIRE_DOCKER"):
        return
    reason = no_engine()
    if reason is not None:
        pytest.skip(f"no Docker engine: {reason}")


# Upstream's celery_broker and celery_backend are parametrized over sets of vendors, whose order
# changes from run to run.
@pytest.fixture
def celery_broker_cluster(celery_redis_broker: RedisTestBroker) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(celery_redis_broker)


@pytest.fixture
def celery_backend_cluster(celery_redis_backend: RedisTestBackend) -> CeleryBackendCluster:
    return CeleryBackendCluster(celery_redis_backend)
