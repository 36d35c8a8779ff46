"""pytest-celery's fixtures, pointed at local processes; the rest of their graph is upstream's.

Each test has a broker, a store and two workers of its own, which it may kill. Only bodies
write in the journal, and its server has no faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
    RedisTestBroker,
)

from celery_saga import Saga, SagaManager, SagaResult
from celery_saga.testing.embedded import EmbeddedValkey
from tests.chaos.nodes import LocalBackend, LocalValkey, LocalWorker, ServerProcess, WorkerProcess
from tests.worker.harness import QUICK, Journal


@pytest.fixture(scope="session")
def journal() -> Iterator[Journal]:
    with EmbeddedValkey() as server:
        yield Journal(server.url())


class Setup(CeleryTestSetup):  # type: ignore[misc]
    """A broker, a store and workers, and what these tests do with them."""

    journal: Journal

    @classmethod
    def update_app_config(cls, app: Celery) -> None:
        app.conf.update(**QUICK, broker_connection_retry_on_startup=True)
        SagaManager(app)

    def saga(self, *steps: Any) -> Saga:
        """A committed saga of ``(step name, task, compensation)`` or ``(step name, task)``."""
        saga = Saga("chaos", app=self.app)
        for name, task, *compensation in steps:
            step = saga.local_step(task, name=name)
            if compensation:
                step.on_failure(compensation[0])
        return saga.commit()

    def ends(self, result: SagaResult, timeout: float = 60) -> tuple[str, list[str]]:
        """The status in which a saga settled, and its bodies in the order of their beginnings."""
        result.get(timeout=timeout, propagate=False)
        return result.status.value, self.journal.began(result.id)

    def worker_of(self, line: dict[str, Any]) -> CeleryTestWorker:
        """The worker that wrote a line of the journal."""
        for worker in self.worker_cluster:
            if line["pid"] in {process.pid for process in worker.container.process.tree()}:
                return worker
        raise AssertionError(f"no worker has process {line['pid']}")


@pytest.fixture(autouse=True)
def same_current_app() -> Iterator[None]:
    """pytest-celery makes its app the current one; other tests have theirs."""
    before = _state.get_current_app()
    yield
    before.set_current()


@pytest.fixture
def celery_setup_cls(journal: Journal) -> type[CeleryTestSetup]:
    class OfThisSession(Setup):
        pass

    OfThisSession.journal = journal
    return OfThisSession


@pytest.fixture
def apart() -> bool:
    """Whether broker and store are a server each."""
    return True


@pytest.fixture
def default_redis_broker() -> Iterator[LocalValkey]:
    node = LocalValkey(ServerProcess("broker"))
    yield node
    node.teardown()


@pytest.fixture
def default_redis_backend(default_redis_broker: LocalValkey, apart: bool) -> Iterator[LocalValkey]:
    if not apart:
        yield default_redis_broker
        return
    node = LocalValkey(ServerProcess("store"))
    yield node
    node.teardown()


# Upstream's celery_broker and celery_backend are parametrized over sets of vendors, whose order
# changes from run to run.
@pytest.fixture
def celery_redis_backend(default_redis_backend: LocalValkey) -> Iterator[LocalBackend]:
    backend = LocalBackend(default_redis_backend)
    yield backend
    backend.teardown()


@pytest.fixture
def celery_broker_cluster(celery_redis_broker: RedisTestBroker) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(celery_redis_broker)


@pytest.fixture
def celery_backend_cluster(celery_redis_backend: LocalBackend) -> CeleryBackendCluster:
    return CeleryBackendCluster(celery_redis_backend)


@pytest.fixture
def default_worker_container_cls() -> type[LocalWorker]:
    return LocalWorker


@pytest.fixture
def new_worker(
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
    celery_setup_app: Celery,
    journal: Journal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[], CeleryTestWorker]]:
    """Starts workers; they are not waited for."""
    # For the bodies, and for the client's process.
    monkeypatch.setenv("SAGA_TEST_JOURNAL", journal.url)
    with ExitStack() as stack:

        def start() -> CeleryTestWorker:
            command = LocalWorker.command("-c", "2", "--without-mingle", "--without-gossip")
            folder = tmp_path / f"worker-{len(list(tmp_path.iterdir()))}"
            process = WorkerProcess(
                "worker", command, default_worker_env, default_worker_initial_content, folder
            )
            container = LocalWorker(process)
            stack.callback(container.teardown)
            return CeleryTestWorker(container, celery_setup_app)

        yield start


@pytest.fixture
def celery_worker_cluster(new_worker: Callable[[], CeleryTestWorker]) -> CeleryWorkerCluster:
    workers = [new_worker(), new_worker()]
    for worker in workers:
        worker.ready()
    return CeleryWorkerCluster(*workers)
