"""What a worker does for sagas that wait for something that will not come by itself.

Recovery is not a second path: it finds out what happened, and feeds events through the same door.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

from celery_saga.core.events import ClaimVoided, MessageState, Overdue
from celery_saga.core.execution import SagaExecution, StepRef
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.ports import Backlog, BrokerInspector, HeartbeatReply
from celery_saga.core.recovery.failure_detector import reclaimable
from celery_saga.core.recovery.other_apps import OtherApps
from celery_saga.core.recovery.policy import POLICY, RecoveryPolicy
from celery_saga.core.recovery.resends import Resends
from celery_saga.errors import (
    SagaExecutionNotFoundException,
    StoreUnavailable,
    UnreadableCheckpoint,
)

log = logging.getLogger("celery_saga")

T = TypeVar("T")

#: Stands behind a task id of which a worker tells a second time so: it keeps the message for later,
#: as for a rate limit, and no process that could hang has it. No task id of a step looks like it.
PUT_OFF = "~later"


class Sweeper:
    """Looks at what is due, and judges the claims of dead instances.

    Args:
        orchestrator: decides and sends.
        inspector: knows the broker and its queues.
        policy: the times of recovery.
        app: the name under which other apps in the store know this one; empty: there are none.
    """

    def __init__(
        self,
        orchestrator: Orchestrator,
        inspector: BrokerInspector,
        policy: RecoveryPolicy = POLICY,
        app: str = "",
    ) -> None:
        self._orchestrator, self._inspector = orchestrator, inspector
        self._other_apps = OtherApps(orchestrator.store, inspector, app)
        self._store = orchestrator.store
        self._policy = policy
        self._missed: dict[tuple[str, float | None], float] = {}
        self._put_off: dict[str, float] = {}
        self._left_alone: dict[str, float] = {}
        self._deliveries: frozenset[str] = frozenset()
        self._resends = Resends(inspector, orchestrator.alert)

    def act_upon(self, reply: HeartbeatReply, steady: bool) -> None:
        """What there is to do for the instance that sweeps.

        What is due comes first: what is sent for dead instances would make queues look as if the
        messages of others waited there.

        Args:
            steady: whether the claims of other instances may be reclaimed now.
        """
        self._other_apps.look()
        # With several apps in one place each instance sweeps: the one of them that is to may not
        # act upon the others' sagas.
        if not reply.sweeper and not self._other_apps.met:
            return
        self.sweep()
        self.reclaim(reply, steady)

    def sweep(self) -> int:
        """Check what is due; how many sagas were checked."""
        now, policy = time.monotonic(), self._policy
        self._missed = {
            key: at for key, at in self._missed.items() if now - at < policy.missing_retention
        }
        self._put_off = {
            key: at for key, at in self._put_off.items() if now - at < policy.possibly_queued_delay
        }
        self._left_alone = {key: until for key, until in self._left_alone.items() if until > now}
        limit = self._policy.sweep_limit
        found = self._store.due(limit + len(self._left_alone))
        due = [saga_id for saga_id in found if saga_id not in self._left_alone][:limit]
        if not due:
            return 0
        # All are looked at before anything is sent: what is sent for one saga would make the queue
        # look as if the others' messages waited there.
        at, looked = self._store.now(), []
        for saga_id in self._in_time(due):
            looked.append(self._tried(saga_id, partial(self._load, saga_id)))
        reserved_by, alive = self._store.reserved_by(), self._store.alive()
        queues = {queue for _, queue in filter(None, looked) if queue}
        backlog = self._inspector.backlog(queues)
        for execution, queue in self._in_time(filter(None, looked)):
            state = self._state(execution, queue, reserved_by, alive, backlog)
            look = partial(self._look, execution, queue, Overdue(at, state))
            self._tried(execution.saga_id, look)
        self._look_for_lost(backlog.unacknowledged, reserved_by)
        self._resends.tell()
        return len(looked)

    def _in_time(self, items: Iterable[T]) -> Iterator[T]:
        """Items until time is up: others wait for this thread, and what is left stays due."""
        until = time.monotonic() + self._policy.sweep_time
        for item in items:
            if time.monotonic() > until:
                return
            yield item

    def _load(self, saga_id: str) -> tuple[SagaExecution, str | None] | None:
        """The saga, and the queue of a message of it that nobody has claimed; ``None``: gone."""
        execution = self._store.load(saga_id, context=False)  # the contexts of all may be too much
        if execution is None or self._is_anothers(execution):
            return None
        ref = None if execution.settled else execution.first_active
        if ref is None or execution.steps[ref.step].claim is not None:
            return execution, None
        return execution, self._inspector.queue_of(execution, ref)

    def _state(
        self,
        execution: SagaExecution,
        queue: str | None,
        reserved_by: Mapping[str, str],
        alive: frozenset[str],
        backlog: Backlog,
    ) -> MessageState:
        """What is known of a saga's message; without a ``queue`` there is none to look for."""
        ref = None if queue is None else execution.first_active
        if ref is None or queue is None:
            return MessageState.NOT_CHECKED
        task_id = ref.task_id(execution.saga_id)
        # Each time that it is sent it is expected anew, and may be missed anew.
        message = task_id, execution.steps[ref.step].expected_at
        waiting = backlog.waiting.get(queue)
        missing = waiting is not None and task_id not in waiting
        if task_id in reserved_by or not missing:
            self._missed.pop(message, None)
        if reserved_by.get(f"{task_id}{PUT_OFF}") in alive:
            self._put_off[task_id] = time.monotonic()
            return MessageState.WAITING
        if task_id in reserved_by:
            return self._held(task_id, reserved_by[task_id] in alive)
        if queue in backlog.empty or (missing and self._missed_for_long(message)):
            return MessageState.MISSING
        if waiting is not None and not missing:
            return MessageState.WAITING
        return MessageState.BACKLOGGED if queue in backlog.long else MessageState.POSSIBLY_QUEUED

    def _held(self, task_id: str, alive: bool) -> MessageState:
        """What a message is that some worker tells of.

        One that was put off may be older than what a process that hangs is given, and a process
        has it only since.
        """
        if not alive:
            return MessageState.LOST_WITH_WORKER
        return MessageState.WAITING if task_id in self._put_off else MessageState.POSSIBLY_QUEUED

    def _missed_for_long(self, message: tuple[str, float | None]) -> bool:
        """Whether nobody had the message at an earlier look either.

        At the first, a worker may have received it whose heartbeat has not told of it yet.
        """
        now = time.monotonic()
        return now - self._missed.setdefault(message, now) >= self._policy.known_after

    def _look_for_lost(
        self, unacknowledged: Mapping[str, str], reserved_by: Mapping[str, str]
    ) -> None:
        """Send again what the broker has given to somebody, and no worker tells of: once for each
        delivery, so that those of workers which died long ago are not looked at for ever.
        """
        new = {
            tag: task_id for tag, task_id in unacknowledged.items() if tag not in self._deliveries
        }
        self._deliveries = frozenset(unacknowledged)
        for task_id in new.values():
            found = None if task_id in reserved_by else StepRef.parse(task_id)
            if found is not None:
                self.guarded(self._lost, *found)

    def _look(self, execution: SagaExecution, queue: str | None, event: Overdue) -> None:
        """Act upon a look; of a message that seems to be lost, find out whether it was sent."""
        ref = execution.first_active
        unseen = event.message is MessageState.POSSIBLY_QUEUED and queue == ""
        missed = ref is not None and (unseen or event.message is MessageState.MISSING)
        if ref is not None and missed and execution.steps[ref.step].republished:
            known = self._inspector.not_sent(execution, ref)
            event = Overdue(event.at, known or event.message)
        try:
            self._act(execution, event)
        except SagaExecutionNotFoundException:
            log.info("saga %s is gone meanwhile", execution.saga_id)

    def _act(self, execution: SagaExecution, event: Overdue, holder: str = "") -> None:
        after, _ = self._orchestrator.apply(execution.saga_id, event, execution)
        self._resends.note(execution, after, event.message, holder)

    def _tried(self, saga_id: str, call: Callable[[], T]) -> T | None:
        """The call's answer. One saga's trouble is logged, and it is left alone for a while; an
        outage of the store is everybody's.
        """
        try:
            return call()
        except StoreUnavailable:
            raise
        except UnreadableCheckpoint as error:
            self._leave_alone(saga_id, error)
        except Exception:
            self._left_alone[saga_id] = time.monotonic() + self._policy.skip_time
            log.exception("saga %s cannot be looked at", saga_id, extra={"saga_id": saga_id})
        return None

    def _is_anothers(self, execution: SagaExecution) -> bool:
        """Whether a saga is another app's, which leaves it alone for a while."""
        ours = self._other_apps.is_ours(execution)
        if not ours:
            self._left_alone[execution.saga_id] = time.monotonic() + self._policy.skip_time
        return not ours

    def _leave_alone(self, saga_id: str, error: UnreadableCheckpoint) -> None:
        """Nothing about it will go better in a moment."""
        self._left_alone[saga_id] = time.monotonic() + self._policy.skip_time
        log.error("%s (it is left alone)", error, extra={"saga_id": saga_id})

    def reclaim(self, reply: HeartbeatReply, steady: bool = True) -> int:
        """Void the claims of instances that are dead, and send again what they had not started.

        Returns how many claims there were. An instance is deregistered when all of its claims are
        dealt with; otherwise the next heartbeat brings it again. One that has sent a heartbeat
        since is spared.
        """
        alive = self._store.alive() if reply.expired and steady else frozenset()
        claims = sum(map(self._reclaim, reclaimable(reply.expired, alive, steady)))
        self._resends.tell()
        return claims

    def _reclaim(self, instance: str) -> int:
        claims = self._store.claims_of(instance)
        done = [self.guarded(self.void, *claim, instance) for claim in claims]
        for task_id, holder in self._store.reserved_by().items():
            found = StepRef.parse(task_id) if holder == instance else None
            if found is not None:
                done.append(self.guarded(self._lost, *found, instance))
        dealt_with = [claim for claim, good in zip(claims, done, strict=False) if good]
        if all(done):
            self._store.deregister(instance, dealt_with)
        return len(claims)

    def guarded(self, call: Callable[..., None], saga_id: str, *args: object) -> bool:
        """Whether ``call`` did its work. What is wrong with one saga is logged, and keeps no other
        from being recovered; an outage of the store is everybody's.
        """
        if self._left_alone.get(saga_id, 0.0) > time.monotonic():
            return False
        try:
            if self._other_apps.met:
                execution = self._store.load(saga_id, context=False)
                if execution is not None and self._is_anothers(execution):
                    return False
            call(saga_id, *args)
        except StoreUnavailable:
            raise
        except UnreadableCheckpoint as error:
            self._leave_alone(saga_id, error)
            return False
        except Exception:
            log.exception("saga %s cannot be recovered now", saga_id, extra={"saga_id": saga_id})
            return False
        return True

    def void(self, saga_id: str, ref: StepRef, instance: str) -> None:
        """The claim of ``instance`` on ``ref`` is void; a saga that is gone needs nothing."""
        try:
            event = ClaimVoided(self._store.now(), ref, instance=instance)
            self._orchestrator.apply(saga_id, event)
        except SagaExecutionNotFoundException:
            log.info("saga %s is gone, its claim with it", saga_id)

    def _lost(self, saga_id: str, ref: StepRef, holder: str = "") -> None:
        """The worker that had the message is dead, and had not started it."""
        execution = self._store.load(saga_id)
        if execution is None or execution.ref(ref.step) != ref:
            return
        if execution.steps[ref.step].claim is None:
            self._act(execution, Overdue(self._store.now(), MessageState.LOST_WITH_WORKER), holder)
