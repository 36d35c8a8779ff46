"""A worker's heartbeat: it reports that the worker is alive, and recovers what is lost.

It has its own thread and its own store connection. It does not use the consumer's timer, which does
not run under the solo pool while a task runs, nor while the broker is unavailable. A second thread
recovers what the heartbeat finds, because it may have to wait for the broker, and the heartbeat
must not. Processes of the pool never use these objects.
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

from celery_saga.core.background import BackgroundJobs
from celery_saga.core.events import ClaimVoided
from celery_saga.core.execution import Claim
from celery_saga.core.ports import HeartbeatReply
from celery_saga.core.recovery.failure_detector import OwnClaims, Steadiness
from celery_saga.core.recovery.policy import RecoveryPolicy
from celery_saga.core.recovery.sweep import Sweeper
from celery_saga.errors import SagaExecutionNotFoundException, UnreadableCheckpoint
from celery_saga.messaging.broker import label_of
from celery_saga.runtime import Report, Runtime
from celery_saga.worker import received
from celery_saga.worker.fork_safety import unforked, unforked_log

log = logging.getLogger("celery_saga")


class Heartbeat:
    """The heartbeat of one worker instance, and the thread that recovers what it finds.

    Args:
        runtime: the app's runtime, with the id of the instance.
        worker: Celery's worker.
    """

    def __init__(self, runtime: Runtime, worker: Any = None) -> None:
        self.instance, self._pid = runtime.instance, os.getpid()
        self._policy = RecoveryPolicy.of(runtime.settings)
        self._orchestrator = runtime.new_orchestrator(BackgroundJobs(), unforked)
        inspector = runtime.inspector(self._orchestrator, unforked)
        app = label_of(runtime.app)
        self._sweeper = Sweeper(self._orchestrator, inspector, self._policy, app)
        self._reserved = received.ReservedMessages(worker)
        self._steadiness, self._own_claims = Steadiness(), OwnClaims()
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._newest: HeartbeatReply | None = None
        self._leaving, self._ended = False, threading.Event()
        self._threads = [
            threading.Thread(target=self._beat, name="celery-saga-heartbeat", daemon=True),
            threading.Thread(target=self._recover, name="celery-saga-recovery", daemon=True),
        ]

    def start(self) -> None:
        """Register the instance with a first heartbeat, then continue in the background."""
        unforked_log(log)
        self._send()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads, and deregister unless claims are left for others to reclaim."""
        if self._ended.is_set():
            return
        self._inbox.put(None)
        self._ended.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=self._policy.instance_ttl)
        store = self._orchestrator.store
        try:
            if not store.claims_of(self.instance):
                store.deregister(self.instance)
            store.close()
        except Exception:
            log.debug("not deregistered: the store is unavailable", exc_info=True)

    def stop_when_idle(self) -> None:
        """The same as :meth:`stop`, once no body runs in this process."""
        self._leaving = True

    def submit(self, saga_id: str, report: Report, run_id: str | None) -> bool:
        """Accept a report from the worker's main process, whose threads must not wait for a store.

        Returns False in a process of the pool, which has inherited this object.
        """
        if os.getpid() != self._pid:
            return False
        self._inbox.put(partial(self._deliver, saga_id, report, run_id))
        return True

    def _beat(self) -> None:
        """Send heartbeats; the loop of the first thread."""
        last, every = time.monotonic(), self._policy.heartbeat_interval
        while not self._ended.wait(max(0.0, every - (time.monotonic() - last))):
            last = time.monotonic()
            if self._leaving and not received.running():
                return self.stop()
            self._guarded(self._send)

    def _recover(self) -> None:
        """Recover and deliver reports; the loop of the second thread."""
        while (work := self._inbox.get()) is not None:
            self._guarded(work)

    def _guarded(self, call: Callable[[], None]) -> None:
        """Log an error and continue, because the heartbeat must not stop."""
        try:
            call()
        except Exception:
            log.warning("the saga heartbeat failed, it continues", exc_info=True)

    def _send(self) -> None:
        """Send one heartbeat, and pass its reply to the second thread."""
        store, ttl = self._orchestrator.store, self._policy.instance_ttl
        reply = store.heartbeat(self.instance, ttl, self._reserved())
        self._steadiness = self._steadiness.after(time.monotonic(), reply.at, self._policy)
        self._newest = reply
        steady = self._steadiness.is_steady(self._policy)
        self._inbox.put(partial(self._act_upon, reply, steady))

    def _act_upon(self, reply: HeartbeatReply, steady: bool) -> None:
        """Recover what a reply reports, unless the reply to a newer heartbeat waits behind it."""
        if reply is not self._newest:
            return
        now, tasks = time.monotonic(), received.steps()
        self._own_claims, lost = self._own_claims.check(now, reply.claims, tasks, self._policy)
        self._sweeper.reclaim_own(self.instance, lost, _runs_inside)
        self._sweeper.act_upon(reply, steady)

    def _deliver(self, saga_id: str, report: Report, run_id: str | None) -> None:
        """Apply a report to its saga, with the store's time."""
        event = report(self._orchestrator.store.now())
        if isinstance(event, ClaimVoided) and event.ref.task_id(saga_id) in received.steps():
            # A process is lost that ran an attempt of the task, and another attempt is here. If the
            # lost one has the claim, the next checks of own claims find it.
            return
        timeout = self._orchestrator.store_timeout
        try:
            self._orchestrator.apply(saga_id, event, timeout=timeout, run_id=run_id)
        except SagaExecutionNotFoundException:
            log.info("a report on saga %s, which does not exist any more", saga_id)
        except UnreadableCheckpoint as error:
            log.error("a report on a saga: %s", error, extra={"saga_id": saga_id})


def _runs_inside(claim: Claim | None) -> bool:
    """Whether a claim is for a step of an eager saga, inside of a task that this worker has."""
    return claim is not None and claim.enclosing_task in received.all_tasks()
