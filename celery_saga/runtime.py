"""What one app's sagas require in one process: store, publishers, orchestrator, instance id."""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from celery import Celery
from kombu.utils.url import maybe_sanitize_url

from celery_saga.core import info
from celery_saga.core.background import BackgroundJobs
from celery_saga.core.context.codec import JSON
from celery_saga.core.context.data import encoded
from celery_saga.core.context.masking import mask_also
from celery_saga.core.decide.operators import awaited
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.events import Event, MessageState, Overdue, SignalReceived
from celery_saga.core.execution import TERMINAL, SagaExecution, SagaStatus, StepRef
from celery_saga.core.orchestrator import Applied, Orchestrator
from celery_saga.core.plan import Path
from celery_saga.core.ports import BrokerInspector, Observer, Store
from celery_saga.definition.planner import Plans
from celery_saga.errors import SetupError
from celery_saga.messaging.inspection import CeleryInspector
from celery_saga.messaging.observers import LoggingObserver, Observers, SignalObserver
from celery_saga.messaging.observers.event_bus import EventObserver
from celery_saga.messaging.publisher import CeleryPublisher, run_here
from celery_saga.messaging.redis.publish import RedisPublisher
from celery_saga.messaging.results import CeleryResults, drop_result
from celery_saga.settings import Settings
from celery_saga.stores.factory import checked, new_store
from celery_saga.stores.memory import MemoryStore

T = TypeVar("T")

_ATTRIBUTE = "_celery_saga_runtime"

#: Apps with a runtime in this process.
_apps: WeakSet[Celery] = WeakSet()

#: Held while objects that all threads share are made. A forked child has its own lock: the thread
#: that held the parent's does not exist in the child.
_making = threading.RLock()


def _after_fork() -> None:
    global _making
    _making = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
#: Makes an event from the store's time.
Report = Callable[[float], Event]


class WorkerHeartbeat(Protocol):
    """What a running worker's heartbeat offers to the rest of its process."""

    def submit(self, saga_id: str, report: Report, run_id: str | None) -> bool:
        """Hand over a report on a step; ``run_id``: of the saga, ``None``: unknown.

        Returns whether it accepts reports, which it does only in its own process.
        """
        ...

    def stop(self) -> None:
        """End it."""
        ...

    def stop_when_idle(self) -> None:
        """Stop it once no step body runs."""
        ...


class Guard(Protocol):
    """Wraps a part of the engine in another one that has the same methods."""

    def __call__(self, part: T, /) -> T:
        """Return the wrapped part."""
        ...


def _unguarded(part: T) -> T:
    return part


class Runtime:
    """The engine of one app in this process.

    Args:
        app: the Celery app; its configuration is read at the first need.
        storage: a store or the URL of one; None: what the app's settings say.
        verify: checks that the app's tasks can be steps, for a process that starts no worker.
    """

    def __init__(
        self, app: Celery, storage: str | Store | None, verify: Callable[[Celery], None]
    ) -> None:
        self.app = app
        self.storage = storage
        self.verify = verify
        #: The instance id of this process. A worker makes a new one before it makes its pool, and
        #: the pool's processes inherit it.
        self.instance = f"client-{uuid.uuid4().hex[:12]}"
        #: Converts values of contexts to texts and back, in checkpoints and messages.
        self.codec = JSON
        self._memory = MemoryStore()
        self._count = itertools.count(1)
        self._made: tuple[int, Orchestrator | None] = (0, None)
        self.plans = Plans(app)
        self._here = threading.local()
        self.events = EventObserver(app)
        #: Are notified of what the engine has done.
        self.observers: list[Observer] = [LoggingObserver(), SignalObserver(), self.events]
        #: Ids of sagas that a call in this process runs, and that have not ended yet.
        self.run_here: set[str] = set()
        #: The heartbeat of the worker that runs in this process, if one does.
        self.heartbeat: WorkerHeartbeat | None = None

    def new_instance(self) -> str:
        """Make a new instance id, because a worker starts."""
        self.instance = uuid.uuid4().hex[:12]
        return self.instance

    @property
    def orchestrator(self) -> Orchestrator:
        """The orchestrator of this process; a forked child makes its own."""
        pid = os.getpid()
        made, found = self._made
        if found is None or made != pid:
            with _making:
                made, found = self._made
                if found is None or made != pid:
                    found = self.new_orchestrator()
                    self._made = (pid, found)
        return found

    @property
    def store(self) -> Store:
        """The store of this process."""
        return self.orchestrator.store

    def new_orchestrator(
        self,
        background_jobs: BackgroundJobs | None = None,
        guard: Guard = _unguarded,
        clock: Callable[[], float] | None = None,
    ) -> Orchestrator:
        """Make an orchestrator with its own store connection.

        Args:
            background_jobs: stores the results; see :class:`Orchestrator`.
            guard: wraps store and publishers, for a thread of a process that forks.
            clock: the time of a new store in memory, which is used instead of the app's store;
                messages are then sent by Celery alone.
        """
        settings = self.settings
        mask_also(settings.mask_keys or ())  # contexts do not know their app
        store = self._new_store() if clock is None else MemoryStore(clock)
        store = guard(store)
        outbox = RedisPublisher(self.app, store) if clock is None else None
        publisher = guard(CeleryPublisher(self.app, outbox, self.codec))
        results = guard(CeleryResults(self.app, store))
        observer = Observers(self.observers)
        timeout = settings.store_timeout
        return Orchestrator(store, publisher, results, timeout, background_jobs, observer)

    def _new_store(self) -> Store:
        return new_store(self.app, self.storage, self._memory, self.codec)

    @contextmanager
    def replaced(self, orchestrator: Orchestrator, heartbeat: WorkerHeartbeat) -> Iterator[None]:
        """Use another orchestrator in this process for a while, as if a worker ran here.

        Args:
            heartbeat: gets the reports of deliveries that did not reach their bodies.

        Raises:
            SetupError: a worker of the app runs in this process.
        """
        if self.heartbeat is not None:
            raise SetupError(
                f"a worker of the Celery app {self.app.main!r} runs in this process: its sagas "
                f"cannot be run without it as well; end it before"
            )
        before = self._made
        self._made, self.heartbeat = (os.getpid(), orchestrator), heartbeat
        try:
            yield
        finally:
            self._made, self.heartbeat = before, None

    def inspector(self, orchestrator: Orchestrator, guard: Guard = _unguarded) -> BrokerInspector:
        """Make the inspector of the broker to which the orchestrator's steps are sent."""
        return guard(CeleryInspector(self.app, orchestrator.publisher, self.codec))

    @property
    def unfinished(self) -> deque[str]:
        """Eager sagas of this thread that have not ended yet."""
        if not hasattr(self._here, "unfinished"):
            self._here.unfinished = deque()
        found: deque[str] = self._here.unfinished
        return found

    @property
    def settings(self) -> Settings:
        """The app's settings.

        Raises:
            SetupError: one of them is wrong.
        """
        return Settings.of(self.app)

    def finish_eagerly(self, saga_id: str, at_once: bool = False) -> None:
        """Run an eager saga to its end, and the sagas that its steps have started.

        A saga that a step starts begins when the step has ended, as it would on a worker. The call
        that runs the step continues it then.

        Args:
            at_once: run it also inside a step, whose body needs its result in this call.
        """
        if info.current.get() is not None:
            if at_once:
                self._advance(saga_id)
            else:
                self.unfinished.append(saga_id)
            return
        self.unfinished.append(saga_id)
        while self.unfinished:
            self._advance(self.unfinished.popleft())

    def _advance(self, saga_id: str) -> None:
        """Send released and delayed messages at once, because no worker's heartbeat would do it.

        Celery's own eager retries ignore their countdown in the same way. The timeout of a wait is
        no such delay: its signal may be sent when the call has returned.
        """
        orchestrator, tasks = self.orchestrator, self.app.tasks
        while not (execution := orchestrator.load(saga_id)).settled:
            # A message that was sent again and not claimed would not be claimed the next time
            # either; and a task that this process does not have was sent to the broker.
            sent = {ref: execution.steps[ref.path] for ref in execution.active}
            waiting = [
                step
                for ref, step in sent.items()
                if step.claim is None
                and step.open_request is None
                and step.republished == 0
                and call_of(execution, ref.path, ref.direction).task in tasks
            ]
            waits = _open_waits(execution, orchestrator.store.now())
            records = [record for path, record in execution.steps.items() if path not in waits]
            until = max((each.not_before or 0.0 for each in records), default=0.0)
            if execution.status is SagaStatus.PAUSED or not (waiting or (until and not sent)):
                return
            times = [step.expected_at or 0.0 for step in waiting]
            at = max(until, *times, orchestrator.store.now())
            orchestrator.apply(saga_id, Overdue(at, MessageState.LOST_WITH_WORKER), execution)
        if execution.status in TERMINAL:
            self.run_here.discard(saga_id)

    def apply(self, saga_id: str, event: Event, known: SagaExecution | None = None) -> Applied:
        """Apply a request of a caller or an operator; an eager saga then runs on to its end here.

        It is eager if ``task_always_eager`` is set, or if a call in this process runs it.

        Raises:
            SagaError: as :meth:`Orchestrator.apply`.
        """
        here = saga_id in self.run_here
        with run_here(saga_id if here else ""):
            try:
                return self.orchestrator.apply(saga_id, event, known)
            finally:
                if here or self.app.conf.task_always_eager:
                    self.finish_eagerly(saga_id)

    def signal(self, saga_id: str, name: str, payload: Any, by: str) -> bool:
        """Send a signal to a saga; returns whether that changed anything."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"signal: expected the name of a signal, found {name!r}")
        values = encoded({"payload": payload}, self.codec)
        values.check_size(self.settings.context_limit)
        text, token = values.text("payload"), secrets.token_hex(8)
        event = SignalReceived(self.store.now(), name, text, token, by)
        return self.apply(saga_id, event).changed

    def token(self, ref: StepRef) -> str:
        """Make an owner token: instance, process, counter, and the ref of the message."""
        return f"{self.instance}:{os.getpid()}:{next(self._count)}:{ref}"

    @property
    def place(self) -> str:
        """The store of this process, as a text without a password."""
        settings = self.settings
        url = self.storage if self.storage is not None else settings.store_url
        if url is None:
            name, url = "result_backend", self.app.conf.result_backend
        else:
            name = "saga_store_url" if self.storage is None else "SagaManager(storage=)"
        shown = maybe_sanitize_url(url) if isinstance(url, str) else type(url).__name__
        return f"{name} = {shown!r}, saga_key_prefix = {settings.key_prefix!r}"

    def drop_old_result(self, saga_id: str) -> bool:
        """Delete the Celery result of an earlier saga of this id, if its checkpoint is deleted.

        Returns whether there was a result.

        Raises:
            StoreUnavailable: the store or the result backend is unavailable.
        """
        if self.store.load(saga_id, context=False) is not None:
            return False
        return drop_result(self.app, saga_id)


def _open_waits(execution: SagaExecution, now: float) -> list[Path]:
    """Paths of the waits for signals whose timeouts have not passed."""
    found = [path for path, _ in awaited(execution)]
    times = (execution.steps[path].not_before for path in found)
    return [path for path, at in zip(found, times, strict=True) if at is None or now < at]


def install(
    app: Celery,
    storage: Any,
    set_up: Callable[[Celery], None],
    verify: Callable[[Celery], None],
) -> Runtime:
    """Return the app's runtime; the first call makes it and sets up the app.

    Args:
        storage: a store, or the URL of one.
        verify: see :attr:`Runtime.verify`.

    Raises:
        SetupError: it was made with another storage, or ``storage`` is not a store.
    """
    storage = None if storage is None else checked(storage)
    with _making:
        found = installed(app)
        if found is None:
            set_up(app)
            found = Runtime(app, storage, verify)
            setattr(app, _ATTRIBUTE, found)
            _apps.add(app)
            return found
    if storage is None or found.storage is storage or found.storage == storage:
        return found
    other = "another" if found.storage is not None else "no"
    raise SetupError(
        f"the Celery app {app.main!r} has a SagaManager with {other} storage=: an app has one "
        f"store, and storage= belongs to its first SagaManager"
    )


def runtime_of(app: Celery) -> Runtime:
    """Return the runtime of an app.

    Raises:
        SetupError: the app has no :class:`SagaManager`.
    """
    found = installed(app)
    if found is None:
        raise SetupError(
            f"the Celery app {app.main!r} has no saga manager in this process: add "
            f"'sagas = SagaManager(app)' after 'app = Celery(...)', in every process that starts "
            f"or runs sagas{_elsewhere()}"
        )
    return found


def _elsewhere() -> str:
    app = only_app()
    if app is None:
        return ""
    return (
        f"; the app {app.main!r} has one: a saga that is to run there names it, Saga(..., app=app)"
    )


def only_app() -> Celery | None:
    """Return the app with a runtime, if this process has exactly one."""
    apps = list(_apps)
    return apps[0] if len(apps) == 1 else None


def installed(app: Celery) -> Runtime | None:
    """Return the runtime of an app, if it has one."""
    return getattr(app, _ATTRIBUTE, None)
