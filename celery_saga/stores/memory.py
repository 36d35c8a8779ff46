"""The store for tests and for a single process: it ends with its process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from celery_saga.core.decide.claims import claimed
from celery_saga.core.execution import Claim, SagaExecution, SagaStatus, StepRef
from celery_saga.core.ports import (
    CLAIMED,
    INSTANCE_RETENTION,
    UNKNOWN,
    Envelope,
    Found,
    HeartbeatReply,
    Refused,
    Reserved,
)


class MemoryStore:
    """Keeps executions in a dict, under one lock.

    Args:
        clock: the store's time, in seconds since the epoch; tests pass their own.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._changed = threading.Condition()  # over a lock that its owner may take again
        self._sagas: dict[str, SagaExecution] = {}
        self._creators: dict[str, str] = {}
        self._entered: dict[str, float] = {}  # when it got its status
        self._writers: dict[str, tuple[str, SagaExecution]] = {}
        self._beats: dict[str, float] = {}
        self._reserved: dict[str, frozenset[Reserved]] = {}
        self._apps: dict[str, float] = {}
        self._sweeper: tuple[str, float] = ("", 0.0)

    def clear(self) -> None:
        """Forget all sagas: between two tests, when nothing runs."""
        with self._changed:
            for kept in (self._sagas, self._creators, self._entered, self._writers):
                kept.clear()
            for known in (self._beats, self._reserved, self._apps):
                known.clear()
            self._sweeper = ("", 0.0)
            self._changed.notify_all()

    @property
    def endpoint(self) -> str:
        return ""

    @property
    def shared(self) -> bool:
        return False

    def now(self) -> float:
        return self._clock()

    def create(
        self,
        execution: SagaExecution,
        token: str,
        batch: Sequence[Envelope] = (),
        replaces: SagaExecution | None = None,
    ) -> tuple[SagaExecution, bool]:
        with self._changed:
            found = self._sagas.get(execution.saga_id)
            if found is not None and not _same(found, replaces):
                return found, self._creators[execution.saga_id] == token
            self._creators[execution.saga_id] = token
            self._entered[execution.saga_id] = self.now()
            self._sagas[execution.saga_id] = replace(execution, revision=1)
            self._changed.notify_all()
            return self._sagas[execution.saga_id], True

    def load(self, saga_id: str, context: bool = True) -> SagaExecution | None:
        return self._sagas.get(saga_id)

    def claim(
        self, saga_id: str, ref: StepRef, claim: Claim, plan: str | None = None, run_id: str = ""
    ) -> SagaExecution | Refused:
        with self._changed:
            found = self._sagas.get(saga_id)
            if found is None:
                return Refused(UNKNOWN)
            if found.run_id != run_id:
                return Refused("stale")
            taken = claimed(found, ref, replace(claim, at=self.now()))
            if taken is None:
                step = found.at_step(ref)
                current = found.ref(ref.path) == ref if step else False
                return Refused(CLAIMED if current else "stale", step.claim if step else None)
            self._sagas[saga_id] = taken
            return taken

    def save(
        self,
        before: SagaExecution,
        after: SagaExecution,
        token: str,
        batch: Sequence[Envelope] = (),
    ) -> SagaExecution | None:
        with self._changed:
            found = self._sagas.get(before.saga_id)
            if found is None or found.run_id != before.run_id:
                return None
            if found.revision != before.revision:
                writer, saved = self._writers.get(before.saga_id, ("", found))
                return saved if writer == token else None
            saved = replace(after, revision=before.revision + 1)
            if after.status is not found.status:
                self._entered[before.saga_id] = self.now()
            self._writers[before.saga_id] = (token, saved)
            self._sagas[before.saga_id] = saved
            self._changed.notify_all()
            return saved

    def deliver(self, batch: Sequence[Envelope]) -> None:
        pass  # it carries none

    def delete(self, saga_id: str, revision: int | None = None) -> bool:
        with self._changed:
            found = self._sagas.get(saga_id)
            if found is not None and revision not in (None, found.revision):
                return False
            self._creators.pop(saga_id, None)
            self._entered.pop(saga_id, None)
            self._writers.pop(saga_id, None)
            return self._sagas.pop(saga_id, None) is not None

    def due(self, limit: int) -> list[str]:
        with self._changed:
            now = self.now()
            found = [
                (saga.due_at, saga_id)
                for saga_id, saga in self._sagas.items()
                if saga.due_at is not None and saga.due_at <= now
            ]
        return [saga_id for _, saga_id in sorted(found)[:limit]]

    def find(
        self, status: SagaStatus, limit: int, name: str | None = None, until: float | None = None
    ) -> list[Found]:
        with self._changed:
            found = [
                Found(self._entered[saga_id], saga_id)
                for saga_id, saga in self._sagas.items()
                if saga.status is status
                and name in (None, saga.name)
                and (until is None or self._entered[saga_id] <= until)
            ]
        return sorted(found, key=lambda each: (-each.since, each.saga_id))[:limit]

    def count(self, status: SagaStatus, name: str | None = None) -> int:
        return len(self.find(status, len(self._sagas), name))

    def wait(self, saga_id: str, timeout: float) -> SagaExecution | None:
        def settled() -> bool:
            found = self._sagas.get(saga_id)
            return found is None or found.settled

        with self._changed:
            self._changed.wait_for(settled, timeout)
            return self._sagas.get(saga_id)

    def heartbeat(
        self, instance: str, ttl: float, reserved: Collection[Reserved]
    ) -> HeartbeatReply:
        with self._changed:
            now = self.now()
            self._beats[instance] = now + ttl
            self._reserved[instance] = frozenset(reserved)
            holding = {
                step.claim.instance
                for saga in self._sagas.values()
                for _, step in saga.steps.items()
                if step.claim is not None
            }
            holding |= self.reserved_by().keys()
            expired = {instance for instance, until in self._beats.items() if until < now}
            sweeper, until = self._sweeper
            if sweeper == instance or until < now:
                self._sweeper = (instance, now + ttl)
            mine = self._sweeper[0] == instance
            return HeartbeatReply(
                now, tuple(sorted(expired & holding)), mine, tuple(self.claims_of(instance))
            )

    def reserved_by(self) -> dict[str, frozenset[Reserved]]:
        with self._changed:
            return {instance: some for instance, some in self._reserved.items() if some}

    def alive(self) -> frozenset[str]:
        with self._changed:
            now = self.now()
            return frozenset(instance for instance, until in self._beats.items() if until >= now)

    def claims_of(self, instance: str) -> list[tuple[str, StepRef]]:
        with self._changed:
            return [
                (saga_id, ref)
                for saga_id, saga in self._sagas.items()
                for path, step in saga.steps.items()
                if step.claim is not None
                and step.claim.instance == instance
                and (ref := saga.ref(path)) is not None
            ]

    def deregister(self, instance: str, claims: Collection[tuple[str, StepRef]] = ()) -> None:
        with self._changed:
            self._beats[instance] = min(self._beats.get(instance, 0.0), self.now() - 0.001)
            self._reserved.pop(instance, None)

    def register_app(self, app: str) -> frozenset[str]:
        with self._changed:
            now = self.now()
            if app:
                self._apps[app] = now
            return frozenset(
                name for name, at in self._apps.items() if at >= now - INSTANCE_RETENTION
            )

    def close(self) -> None:
        pass


def _same(found: SagaExecution, other: SagaExecution | None) -> bool:
    return other is not None and (found.run_id, found.revision) == (other.run_id, other.revision)
