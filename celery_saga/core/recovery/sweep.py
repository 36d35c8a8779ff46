"""The sweep: what a worker does for sagas that would not continue otherwise.

Recovery is not a second path: it finds out what happened, and applies the same events as a step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from celery_saga.core.events import ClaimVoided, MessageState, Overdue
from celery_saga.core.execution import Claim, SagaExecution, StepRef
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.ports import BrokerInspector, HeartbeatReply
from celery_saga.core.recovery.failure_detector import ClaimRef, reclaimable
from celery_saga.core.recovery.message_locator import (
    Expected,
    Located,
    Seen,
    Snapshot,
    locate,
)
from celery_saga.core.recovery.other_apps import OtherApps
from celery_saga.core.recovery.policy import POLICY, RecoveryPolicy
from celery_saga.core.recovery.resends import Resends
from celery_saga.core.retry import SavedByOthers
from celery_saga.errors import (
    SagaExecutionNotFoundException,
    StoreUnavailable,
    UnreadableCheckpoint,
)

log = logging.getLogger("celery_saga")

T = TypeVar("T")

#: A saga to be checked, and those of its messages that no worker has claimed.
_Check = tuple[SagaExecution, Mapping[StepRef, Expected]]


class Sweeper:
    """Checks the sagas that are due, and reclaims the claims and messages of dead instances.

    Args:
        orchestrator: applies the events.
        inspector: reads the broker and its queues.
        policy: the times of recovery.
        app: the name of the app in the store; empty: other apps are not detected.
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
        self._seen = Seen()
        #: Sagas that could not be checked -> until when they are skipped.
        self._skipped: dict[str, float] = {}
        #: Dead instance -> its messages that were sent again already.
        self._recovered: dict[str, set[str]] = {}
        self._resends = Resends(inspector, orchestrator.alert)

    def act_upon(self, reply: HeartbeatReply, steady: bool) -> None:
        """Act upon the reply to a heartbeat.

        Sagas that are due come first: messages that are sent for dead instances would make queues
        look as if they held the messages of other sagas.

        Args:
            steady: whether the claims of other instances may be reclaimed now.
        """
        self._other_apps.refresh()
        # With several apps under one prefix each instance sweeps, because the elected one may not
        # act upon the others' sagas.
        if not reply.sweeper and not self._other_apps.other_apps:
            return
        self.sweep()
        self.reclaim(reply, steady)

    def sweep(self) -> int:
        """Check the sagas that are due; returns how many were checked."""
        now, limit = time.monotonic(), self._policy.sweep_limit
        self._skipped = {saga_id: until for saga_id, until in self._skipped.items() if until > now}
        found = self._store.due(limit + len(self._skipped))
        due = [saga_id for saga_id in found if saga_id not in self._skipped][:limit]
        if not due:
            return 0
        # All are read before any message is sent: a message for one saga would make the queue look
        # as if it held those of the others.
        at, checks = self._store.now(), []
        for saga_id in self._in_time(due):
            checks.append(self._attempt(saga_id, partial(self._read, saga_id)))
        found_now = [check for check in checks if check is not None]
        located = self._locate(found_now)
        for execution, messages in self._in_time(found_now):
            states = {ref: located.states[message] for ref, message in messages.items()}
            call = partial(self._check, execution, messages, Overdue(at, messages=states))
            self._attempt(execution.saga_id, call)
        for task_id in located.unowned:
            step = StepRef.parse(task_id)
            if step is not None:
                self.guarded(self._lost, *step)
        self._seen = located.seen
        self._resends.report()
        return len(checks)

    def _locate(self, checks: Iterable[_Check]) -> Located:
        """Locate the messages of all sagas that are checked, with one reading of the broker."""
        messages = [message for _, expected in checks for message in expected.values()]
        reserved, alive = self._store.reserved_by(), self._store.alive()
        # Messages that were sent again are searched for like any other message.
        again = {each for some in self._recovered.values() for each in some}
        reserved = {
            instance: some
            if instance in alive
            else frozenset(each for each in some if each.task_id not in again)
            for instance, some in reserved.items()
        }
        queues = {message.queue for message in messages if message.queue}
        broker = self._inspector.backlog(queues)
        snapshot = Snapshot(time.monotonic(), reserved, alive, broker)
        located = locate(messages, snapshot, self._seen, self._policy)
        # Each delivery is listed once, so it is remembered until it is recovered.
        self._seen = replace(located.seen, deliveries=self._seen.deliveries)
        return located

    def _in_time(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items until time is up: reports wait for this thread, and the rest stays due."""
        until = time.monotonic() + self._policy.sweep_time
        for item in items:
            if time.monotonic() > until:
                return
            yield item

    def _read(self, saga_id: str) -> _Check | None:
        """Read a saga and its messages that no worker has claimed; ``None``: it is skipped."""
        execution = self._store.load(saga_id, context=False)  # all contexts may be too large
        if execution is None or self._is_of_other_app(execution):
            return None
        messages = {}
        for ref in () if execution.settled else execution.active:
            step = execution.steps[ref.path]
            if step.claim is None and step.open_request is None:
                queue = self._inspector.queue_of(execution, ref)
                messages[ref] = Expected(ref.task_id(saga_id), queue, step.expected_at)
        return execution, messages

    def _check(
        self, execution: SagaExecution, messages: Mapping[StepRef, Expected], event: Overdue
    ) -> None:
        """Apply the states of its messages to a saga; a missing one may never have been sent."""
        states = dict(event.messages)
        for ref, message in messages.items():
            unknown = states[ref] is MessageState.POSSIBLY_QUEUED and not message.queue
            if execution.steps[ref.path].republished and (
                unknown or states[ref] is MessageState.MISSING
            ):
                states[ref] = self._inspector.not_sent(execution, ref) or states[ref]
        try:
            replied = self._with_replies(execution, event.at)
            self._act(replied, replace(event, messages=states))
        except SagaExecutionNotFoundException:
            log.info("saga %s does not exist any more", execution.saga_id)

    def _with_replies(self, execution: SagaExecution, at: float) -> SagaExecution:
        """The saga with the replies that were lost, or never sent, and are in a result backend."""
        for ref in execution.active:
            request = execution.steps[ref.path].open_request
            reply = self._inspector.reply_to(execution, ref) if request and request.sent else None
            if reply is not None:
                event = replace(reply, at=at)
                execution, _ = self._orchestrator.apply(execution.saga_id, event, execution)
        return execution

    def _act(self, execution: SagaExecution, event: Overdue, instance: str = "") -> None:
        after, _ = self._orchestrator.apply(execution.saga_id, event, execution)
        self._resends.record(execution, after, event, instance)

    def _attempt(self, saga_id: str, call: Callable[[], T]) -> T | None:
        """Return the result of the call.

        An error of one saga is logged, and the saga is skipped for a while. An outage of the store
        concerns all.
        """
        try:
            return call()
        except (SavedByOthers, UnreadableCheckpoint) as error:
            self._skip(saga_id, error)
        except StoreUnavailable:
            raise
        except Exception:
            self._skipped[saga_id] = time.monotonic() + self._policy.skip_time
            log.exception("saga %s cannot be checked", saga_id, extra={"saga_id": saga_id})
        return None

    def _is_of_other_app(self, execution: SagaExecution) -> bool:
        """Whether a saga is another app's, which is skipped for a while."""
        ours = self._other_apps.is_own(execution)
        if not ours:
            self._skipped[execution.saga_id] = time.monotonic() + self._policy.skip_time
        return not ours

    def _skip(self, saga_id: str, error: SavedByOthers | UnreadableCheckpoint) -> None:
        """Skip a saga for a while, because its trouble persists."""
        self._skipped[saga_id] = time.monotonic() + self._policy.skip_time
        log.error("%s (it is skipped for a while)", error, extra={"saga_id": saga_id})

    def reclaim(self, reply: HeartbeatReply, steady: bool = True) -> int:
        """Void the claims of dead instances, and send again the messages that they had not started.

        Returns how many claims there were. An instance is deregistered when all of its claims are
        reclaimed; otherwise the next heartbeat returns it again. An instance that has sent a
        heartbeat since is skipped.
        """
        alive = self._store.alive() if reply.expired and steady else frozenset()
        claims = sum(map(self._reclaim, reclaimable(reply.expired, alive, steady)))
        self._resends.report()
        return claims

    def _reclaim(self, instance: str) -> int:
        claims = self._store.claims_of(instance)
        done = [self.guarded(self.void, *claim, instance) for claim in claims]
        recovered = self._recovered.setdefault(instance, set())
        for task_id in self._only_reserved_by(instance):
            step = StepRef.parse(task_id)
            if step is not None and task_id not in recovered:
                done.append(self.guarded(self._lost, *step, instance))
                if done[-1]:
                    recovered.add(task_id)
        dealt_with = [claim for claim, good in zip(claims, done, strict=False) if good]
        if all(done):
            self._store.deregister(instance, dealt_with)
            self._recovered.pop(instance, None)
        return len(claims)

    def _only_reserved_by(self, instance: str) -> list[str]:
        """Task ids of messages that no other instance has, whose recovery would include them."""
        reserved = self._store.reserved_by()
        own = {each.task_id for each in reserved.pop(instance, ())}
        return sorted(own - {each.task_id for some in reserved.values() for each in some})

    def reclaim_own(
        self, instance: str, lost: Iterable[ClaimRef], runs: Callable[[Claim | None], bool]
    ) -> None:
        """Void claims of the worker's own instance that have no task any more.

        Args:
            runs: whether the step of a claim runs nevertheless, inside of another task.
        """
        for saga_id, ref in lost:
            self.guarded(self._void_unless, saga_id, ref, instance, runs)

    def _void_unless(
        self, saga_id: str, ref: StepRef, instance: str, runs: Callable[[Claim | None], bool]
    ) -> None:
        execution = self._store.load(saga_id, context=False)
        step = None if execution is None else execution.at_step(ref)
        if step is None or not runs(step.claim):
            self.void(saga_id, ref, instance)

    def guarded(self, call: Callable[..., None], saga_id: str, *args: object) -> bool:
        """Run ``call`` and return whether it succeeded.

        An error of one saga is logged, and does not prevent the recovery of others. An outage of
        the store concerns all.
        """
        if self._skipped.get(saga_id, 0.0) > time.monotonic():
            return False
        try:
            if self._other_apps.other_apps:
                execution = self._store.load(saga_id, context=False)
                if execution is not None and self._is_of_other_app(execution):
                    return False
            call(saga_id, *args)
        except (SavedByOthers, UnreadableCheckpoint) as error:
            self._skip(saga_id, error)
            return False
        except StoreUnavailable:
            raise
        except Exception:
            log.exception("saga %s cannot be recovered now", saga_id, extra={"saga_id": saga_id})
            return False
        return True

    def void(self, saga_id: str, ref: StepRef, instance: str) -> None:
        """Void the claim of ``instance`` on ``ref``; a deleted saga requires nothing."""
        try:
            event = ClaimVoided(self._store.now(), ref, instance=instance)
            self._orchestrator.apply(saga_id, event)
        except SagaExecutionNotFoundException:
            log.info("saga %s is deleted, with its claim", saga_id)

    def _lost(self, saga_id: str, ref: StepRef, instance: str = "") -> None:
        """Send the message of a dead worker again, which had not started it."""
        execution = self._store.load(saga_id)
        if execution is None or execution.ref(ref.path) != ref:
            return
        if execution.steps[ref.path].claim is None:
            lost = {ref: MessageState.LOST_WITH_WORKER}
            event = Overdue(self._store.now(), messages=lost)
            self._act(execution, event, instance)
