"""The bootstep that starts recovery in a worker, and refuses a set-up that would lose sagas."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps
from kombu.utils import functional

from celery_saga.definition.builder import SAGAS
from celery_saga.definition.discovery import import_sagas
from celery_saga.definition.strategies import check_used
from celery_saga.errors import SetupError
from celery_saga.messaging.broker import broker_kind
from celery_saga.runtime import Runtime, runtime_of
from celery_saga.worker.fork_safety import unforked
from celery_saga.worker.heartbeat import Heartbeat
from celery_saga.worker.hook import verify
from celery_saga.worker.received import running


def refuse_memory(runtime: Runtime) -> None:
    """Refuse a store or a broker that exists in one process only, if the pool has several.

    Raises:
        SetupError: the store or the broker is in memory.
    """
    if not runtime.store.shared:
        raise SetupError(
            "saga_store_url = 'memory://' keeps sagas in one process, and the prefork pool has "
            "several: use a redis:// URL, or --pool solo in a test"
        )
    if broker_kind(runtime.app) == "memory":
        raise SetupError(
            "the broker memory:// exists in one process only, and the steps that processes of "
            "the prefork pool send would be lost: use a real broker, or --pool solo in a test"
        )


def refuse_without_json(app: Celery) -> None:
    """Refuse a worker that would drop the messages of steps.

    Raises:
        SetupError: the worker does not accept JSON.
    """
    if not {"json", "application/json"} & set(app.conf.accept_content):
        raise SetupError(
            f"accept_content = {app.conf.accept_content!r}: the messages of steps are JSON, which "
            f"this worker would drop: add 'json'"
        )


class _Starter:
    """Passes an error to the caller that waits for a worker in another thread.

    Celery's ``start_worker`` waits without end if the worker does not start, and gets no error of
    its thread.

    Args:
        worker: Celery's worker; only its worker for tests has a caller that waits.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._error: Exception | None = None
        self._wait: Callable[[], None] | None = getattr(worker, "ensure_started", None)
        if self._wait is not None:
            worker.ensure_started = self._ensure_started

    def _ensure_started(self) -> None:
        assert self._wait is not None
        self._wait()
        if self._error is not None:
            raise self._error

    def fail(self, error: Exception) -> None:
        """Raise ``error`` in the caller, because the worker will not start."""
        if self._wait is not None:
            self._error = error
            self._worker._on_started.set()


class RecoveryStep(bootsteps.StartStopStep):
    """Gives a worker its instance id before its pool starts; its heartbeat before it consumes.

    A configuration under which sagas would be lost is refused.
    """

    label = "Saga recovery"
    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._starter = _Starter(parent)
        self._runtime = runtime_of(parent.app)
        # Wrong settings raise here, in the thread that starts the worker.
        self._runtime.settings, self._runtime.store  # noqa: B018
        import_sagas(parent.app)
        verify(parent.app)
        check_used(parent.app, SAGAS)
        if parent.pool_cls.__module__.endswith("prefork"):
            refuse_memory(self._runtime)
        refuse_without_json(parent.app)
        if parent.pool_cls.is_green:
            # kombu is imported before Celery patches the standard library. While the broker is
            # unavailable, its pauses would block every greenlet, and with them the heartbeat.
            functional.sleep = time.sleep  # type: ignore[attr-defined]
        self._runtime.new_instance()
        self._runtime.events.of_worker(bool(parent.task_events), parent.hostname, unforked)

    def start(self, parent: Any) -> None:
        try:
            heartbeat = Heartbeat(self._runtime, parent)
            heartbeat.start()
        except Exception as error:
            self._starter.fail(error)
            raise
        self._runtime.heartbeat = heartbeat

    def terminate(self, parent: Any) -> None:
        """Stop the heartbeat; if step bodies still run that the pool could not end, after them."""
        heartbeat = self._runtime.heartbeat
        if heartbeat is None:
            return
        if running():
            heartbeat.stop_when_idle()
        else:
            self._runtime.heartbeat = None
            heartbeat.stop()

    def stop(self, parent: Any) -> None:
        """Keep the heartbeat: a warm shutdown waits for tasks that still run."""
