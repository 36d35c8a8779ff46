"""Sends events of sagas on Celery's event bus, outside of the thread that made the change."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from celery import Celery

from celery_saga.core.background import BackgroundJobs
from celery_saga.core.events import Transition
from celery_saga.core.views.notice import Notice, notice_of
from celery_saga.settings import Settings

T = TypeVar("T")

log = logging.getLogger("celery_saga")

#: How many events wait to be sent. More are dropped, the oldest first: events inform, the
#: checkpoints are what counts.
LIMIT = 1000


class EventObserver:
    """Sends ``saga-...`` events, if ``saga_send_events`` is set or the worker sends task events.

    Args:
        app: its broker and event exchange are used.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._worker = False
        self._hostname: str | None = None
        self._guard: Callable[[Any], Any] = lambda part: part
        #: By process. A child keeps its parent's: to drop it would close the parent's connection.
        self._senders: dict[int, _Sender] = {}

    def of_worker(self, task_events: bool, hostname: str, guard: Callable[[T], T]) -> None:
        """Prepare for a worker, before it makes its pool.

        Args:
            task_events: whether it sends events of tasks: ``-E``, ``worker_send_task_events``.
            hostname: its node name, for the events.
            guard: wraps what calls the broker, as for :meth:`Runtime.new_orchestrator`.
        """
        self._worker, self._hostname, self._guard = task_events, hostname, guard
        self._senders = {}

    @property
    def details(self) -> bool:
        return self._sender().enabled

    def observe(self, transition: Transition) -> None:
        sender = self._sender()
        if sender.enabled:
            notice = notice_of(transition)
            if notice is not None:
                sender.send(notice)

    def _sender(self) -> _Sender:
        """The sender of this process; a forked child has neither the thread nor the connection."""
        found = self._senders.get(os.getpid())
        if found is None:
            enabled = self._worker or Settings.of(self._app).send_events
            found = _Sender(enabled, self._guard(_Bus(self._app, self._hostname)))
            self._senders[os.getpid()] = found
        return found


class _Bus:
    """A connection to the event bus, which is opened by the first event."""

    def __init__(self, app: Celery, hostname: str | None) -> None:
        self._app, self._hostname = app, hostname
        self._connection: Any = None
        self._dispatcher: Any = None

    def send(self, notice: Notice) -> None:
        """Send an event; after an error, the next one opens a new connection."""
        fields = notice._asdict()
        try:
            if self._dispatcher is None:
                self._connection = self._app.connection_for_write()
                # One retry: a Dispatcher would try for six seconds, while a fork waits.
                self._connection.connect()
                self._dispatcher = self._app.events.Dispatcher(
                    self._connection, self._hostname, buffer_while_offline=False
                )
            self._dispatcher.send(fields.pop("name"), **fields)
        except Exception:
            connection, self._connection, self._dispatcher = self._connection, None, None
            if connection is not None:
                with contextlib.suppress(Exception):  # the first error is raised
                    connection.close()
            raise


class _Sender:
    """The events of one process that wait, and the thread that sends them."""

    def __init__(self, enabled: bool, bus: _Bus) -> None:
        self.enabled = enabled
        self._bus, self._jobs = bus, BackgroundJobs()
        self._waiting: deque[Notice] = deque(maxlen=LIMIT)
        self._failed = False

    def send(self, notice: Notice) -> None:
        self._waiting.append(notice)
        self._jobs("events", self._send_all)

    def _send_all(self) -> None:
        while self._waiting:
            notice = self._waiting.popleft()
            try:
                self._bus.send(notice)
            except Exception:
                if not self._failed:
                    log.warning("events of sagas cannot be sent, and are dropped", exc_info=True)
                self._failed = True
            else:
                self._failed = False
