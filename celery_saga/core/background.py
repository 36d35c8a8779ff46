"""Background jobs: calls that may take long, run outside of a thread that must not wait."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from celery_saga.core.decide.observed import log_fields

log = logging.getLogger("celery_saga")


class BackgroundJobs:
    """Runs calls one after the other in its own daemon thread, which starts with the first.

    A call is dropped while another one of the same name still waits.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[str, Callable[[], object]]] = queue.SimpleQueue()
        self._waiting: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, name: str, call: Callable[[], object]) -> None:
        """Run ``call`` in the background; its exception is logged."""
        with self._lock:
            if name in self._waiting:
                return
            self._waiting.add(name)
            if self._thread is None:
                name_of_thread = "celery-saga-background-jobs"
                self._thread = threading.Thread(target=self._run, name=name_of_thread, daemon=True)
                self._thread.start()
        self._calls.put((name, call))

    def _run(self) -> None:
        while True:
            name, call = self._calls.get()
            with self._lock:
                self._waiting.discard(name)
            try:
                call()
            except Exception:
                extra = log_fields(name)
                log.warning("saga %s: a background job failed", name, exc_info=True, extra=extra)
