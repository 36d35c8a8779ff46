"""A worker's heartbeat: it keeps the worker alive for others, and finds what is lost.

It runs in a thread of its own with a store connection of its own, never on the consumer's timer,
which stands still under the solo pool and while the broker is away. What it finds is dealt with in
a second thread, which may have to wait for the broker: the heartbeat must not. Processes of the
pool never touch these objects.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import bootsteps
from celery.worker import state
from kombu.utils import functional

from celery_saga.agreement import broker_kind, label_of
from celery_saga.core.background import BackgroundJobs
from celery_saga.core.events import ClaimVoided
from celery_saga.core.execution import StepRef
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.ports import HeartbeatReply, Reserved
from celery_saga.core.recovery.failure_detector import OwnClaims, Steadiness
from celery_saga.core.recovery.policy import RecoveryPolicy
from celery_saga.core.recovery.sweep import Sweeper
from celery_saga.definition.builder import SAGAS
from celery_saga.definition.discovery import import_sagas
from celery_saga.definition.strategies import check_used
from celery_saga.errors import (
    SagaExecutionNotFoundException,
    SetupError,
    UnreadableCheckpoint,
)
from celery_saga.runtime import Report, Runtime, runtime_of
from celery_saga.worker.fork_safety import unforked, unforked_log
from celery_saga.worker.hook import verify
from celery_saga.worker.rate_limits import RateLimited, snapshot

log = logging.getLogger("celery_saga")


class Heartbeat:
    """The heartbeat of one worker instance.

    Args:
        runtime: the app's runtime, with the instance's instance id.
        worker: Celery's.
    """

    def __init__(self, runtime: Runtime, worker: Any = None) -> None:
        self.instance = runtime.instance
        self._policy = RecoveryPolicy.of(runtime.settings)
        self._runtime, self._rates = runtime, RateLimited(worker)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._newest: HeartbeatReply | None = None
        self._pid = os.getpid()
        self._orchestrator: Orchestrator | None = None
        self._steadiness, self._own_claims = Steadiness(), OwnClaims()
        self._leaving, self._ended = False, threading.Event()
        self._threads = [
            threading.Thread(target=self._live, name="celery-saga-heartbeat", daemon=True),
            threading.Thread(target=self._recover, name="celery-saga-recovery", daemon=True),
        ]

    def start(self) -> None:
        """Announce the boot, then beat in the background."""
        self._orchestrator = made = self._runtime.new_orchestrator(BackgroundJobs(), unforked)
        inspector = self._runtime.inspector(made, unforked)
        unforked_log(log)
        app = label_of(self._runtime.app)
        self._sweeper = Sweeper(made, inspector, self._policy, app)
        self._send()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads and take leave, unless claims are left for others to judge."""
        if self._ended.is_set():
            return
        self._inbox.put(None)
        self._ended.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=self._policy.instance_ttl)
        store = self._shell.store
        try:
            if not store.claims_of(self.instance):
                store.deregister(self.instance)
            store.close()
        except Exception:
            log.debug("no leave taken: the store is away", exc_info=True)

    def stop_when_idle(self) -> None:
        """As :meth:`stop`, as soon as no body runs in this process any more."""
        self._leaving = True

    @property
    def _shell(self) -> Orchestrator:
        assert self._orchestrator is not None
        return self._orchestrator

    def submit(self, saga_id: str, report: Report, run: str | None) -> bool:
        """News from the worker's main process, whose own threads must not wait for a store.

        A process of the pool that inherited this object is not listened to.
        """
        if os.getpid() != self._pid:
            return False
        self._inbox.put(partial(self._deliver, saga_id, report, run))
        return True

    def _live(self) -> None:
        last = time.monotonic()
        every = self._policy.heartbeat_interval
        while not self._ended.wait(max(0.0, every - (time.monotonic() - last))):
            last = time.monotonic()
            if self._leaving and not state.active_requests:
                return self.stop()
            self._guarded(self._send)

    def _recover(self) -> None:
        while (work := self._inbox.get()) is not None:
            self._guarded(work)

    def _guarded(self, call: Callable[[], None]) -> None:
        """The heartbeat must not stop: what goes wrong is logged, and tried again at the next."""
        try:
            call()
        except Exception:
            log.warning("the saga heartbeat failed, it goes on", exc_info=True)

    def _deliver(self, saga_id: str, report: Report, run: str | None) -> None:
        event = report(self._shell.store.now())
        if isinstance(event, ClaimVoided) and event.ref.task_id(saga_id) in _requests()[0]:
            # A process is lost that ran an attempt at the task, and another attempt is here. If it
            # is not this one that has the claim, the next looks will find that out.
            return
        try:
            self._shell.apply(saga_id, event, timeout=self._shell.store_timeout, run=run)
        except SagaExecutionNotFoundException:
            log.info("a report on saga %s, which does not exist any more", saga_id)
        except UnreadableCheckpoint as error:
            log.error("a report on a saga: %s", error, extra={"saga_id": saga_id})

    def _send(self) -> None:
        # The deferred ones first: what is let through meanwhile must not be left out.
        deferred = self._rates.task_ids()
        _, waiting = _requests()
        reserved = {Reserved(each, each in deferred) for each in waiting | deferred}
        reply = self._shell.store.heartbeat(self.instance, self._policy.instance_ttl, reserved)
        self._steadiness = self._steadiness.after(time.monotonic(), reply.at, self._policy)
        self._newest = reply
        steady = self._steadiness.is_steady(self._policy)
        self._inbox.put(partial(self._act_upon, reply, steady))

    def _act_upon(self, reply: HeartbeatReply, steady: bool) -> None:
        """Recover what a reply tells of, unless the reply to a newer heartbeat waits behind it."""
        if reply is not self._newest:
            return
        self._reclaim_own(reply)
        self._sweeper.act_upon(reply, steady)

    def _reclaim_own(self, reply: HeartbeatReply) -> None:
        tasks, _ = _requests()
        self._own_claims, lost = self._own_claims.check(
            time.monotonic(), reply.claims, tasks, self._policy
        )
        for saga_id, ref in lost:
            self._sweeper.guarded(self._void_own, saga_id, ref)

    def _void_own(self, saga_id: str, ref: StepRef) -> None:
        if not self._in_enclosing_task(saga_id, ref):
            self._sweeper.void(saga_id, ref, self.instance)

    def _in_enclosing_task(self, saga_id: str, ref: StepRef) -> bool:
        """Whether a step of an eager saga runs in a task that this worker has."""
        execution = self._shell.store.load(saga_id, context=False)
        step = None if execution is None else execution.at_step(ref)
        claim = None if step is None else step.claim
        return claim is not None and claim.enclosing_task in _task_ids()[1]


def _task_ids() -> tuple[set[str], set[str]]:
    """Ids of the tasks that the worker runs, and of all that it has.

    Celery's index by id forgets a running request when a duplicate of it is dropped: the sets of
    requests are asked as well.
    """
    active = {request.id for request in snapshot(state.active_requests)}
    reserved = {request.id for request in snapshot(state.reserved_requests)}
    return active, active | reserved | set(snapshot(state.requests))


def _requests() -> tuple[frozenset[str], frozenset[str]]:
    """Task ids of steps that the worker has, and of those among them that it has not started."""
    active, known = _task_ids()
    held = {task_id for task_id in known if StepRef.parse(task_id)}
    return frozenset(held), frozenset(held - active)


class _Starter:
    """Whoever waits for a worker that runs in a thread of its own, as Celery's ``start_worker``.

    It waits without end for one that does not come up, and sees no error of that thread.

    Args:
        worker: Celery's; only its worker for tests is waited for.
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

    def tell(self, error: Exception) -> None:
        """It will not come up: raise that where the worker was started."""
        if self._wait is not None:
            self._error = error
            self._worker._on_started.set()


class RecoveryStep(bootsteps.StartStopStep):
    """Gives a worker its instance id before its pool is made; its heartbeat before it consumes."""

    label = "Saga recovery"
    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._starter = _Starter(parent)
        self._runtime = runtime_of(parent.app)
        # They raise what is wrong with the set-up, in the thread that is here.
        self._runtime.settings, self._runtime.store  # noqa: B018
        import_sagas(parent.app)
        verify(parent.app)
        check_used(parent.app, SAGAS)
        self._refuse_memory(parent)
        if not {"json", "application/json"} & set(parent.app.conf.accept_content):
            raise SetupError(
                f"accept_content = {parent.app.conf.accept_content!r}: steps travel as JSON, which "
                f"this worker would drop: add 'json'"
            )
        if parent.pool_cls.is_green:
            # kombu is imported before Celery patches the standard library: while the broker is
            # away, its pauses would hold up every greenlet, and with them the heartbeat.
            functional.sleep = time.sleep  # type: ignore[attr-defined]
        self._runtime.new_instance()

    def _refuse_memory(self, parent: Any) -> None:
        if not parent.pool_cls.__module__.endswith("prefork"):
            return
        if not self._runtime.store.shared:
            raise SetupError(
                "saga_store_url = 'memory://' keeps sagas in one process, and the prefork pool has "
                "several: use a redis:// URL, or --pool solo in a test"
            )
        if broker_kind(parent.app) == "memory":
            raise SetupError(
                "the broker memory:// exists in one process only, and the steps that processes of "
                "the prefork pool send would be lost: use a real broker, or --pool solo in a test"
            )

    def start(self, parent: Any) -> None:
        try:
            heartbeat = Heartbeat(self._runtime, parent)
            heartbeat.start()
        except Exception as error:
            self._starter.tell(error)
            raise
        self._runtime.heartbeat = heartbeat

    def terminate(self, parent: Any) -> None:
        """The heartbeat ends; if bodies run that the pool could not end, when they have."""
        heartbeat = self._runtime.heartbeat
        if heartbeat is None:
            return
        if state.active_requests:
            heartbeat.stop_when_idle()
        else:
            self._runtime.heartbeat = None
            heartbeat.stop()

    def stop(self, parent: Any) -> None:
        """The heartbeat goes on: a warm shutdown waits for tasks that still run."""
