"""Locates the messages of steps that no worker has claimed.

Pure: it computes the state of each message from one snapshot of broker and workers, and from what
earlier snapshots have shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from celery_saga.core.events import MessageState
from celery_saga.core.ports import Backlog, Reserved
from celery_saga.core.recovery.policy import RecoveryPolicy

K = TypeVar("K")


class Expected(NamedTuple):
    """A message that a saga waits for.

    Args:
        task_id: of the step.
        queue: the queue to which it was sent; empty: not known.
        expected_at: when it was last sent. After each time that it is sent it may be missing.
    """

    task_id: str
    queue: str
    expected_at: float | None


@dataclass(frozen=True)
class Snapshot:
    """The state of broker and workers at one time.

    Args:
        at: that time, in the worker's time.
        reserved: worker instance -> messages that it has received and not started.
        alive: the instances that are alive.
        broker: the broker's queues and deliveries.
    """

    at: float
    reserved: Mapping[str, Collection[Reserved]]
    alive: frozenset[str]
    broker: Backlog


@dataclass(frozen=True)
class Seen:
    """What earlier snapshots have shown.

    Args:
        missing_since: when a message was first not found at any worker nor in its queue.
        deferred_at: task id -> when a live worker last had the message deferred.
        deliveries: tags of the deliveries that were unacknowledged.
    """

    missing_since: Mapping[Expected, float] = field(default_factory=dict)
    deferred_at: Mapping[str, float] = field(default_factory=dict)
    deliveries: frozenset[str] = frozenset()


class Located(NamedTuple):
    """The messages that were found.

    Args:
        states: the state of each expected message.
        unowned: task ids of unacknowledged deliveries that no worker has reported. Each delivery is
            listed once, so that those of workers that died long ago are not recovered for ever.
        seen: for the next snapshot.
    """

    states: Mapping[Expected, MessageState]
    unowned: tuple[str, ...]
    seen: Seen


def locate(
    messages: Iterable[Expected], snapshot: Snapshot, before: Seen, policy: RecoveryPolicy
) -> Located:
    """Find the state of each message.

    ================================================  =============================================
    what the snapshot shows                           state
    ================================================  =============================================
    a live worker has deferred it                     ``WAITING``: not in a process, which may hang
    a live worker has it, and had deferred it         ``WAITING``: not in a process for long
    a live worker has reserved it                     ``POSSIBLY_QUEUED``: its process may hang
    dead workers alone, and a copy is in its queue    ``WAITING``
    dead workers alone have reserved it               ``LOST_WITH_WORKER``
    its queue is empty                                ``MISSING``
    its queue is known, and twice it was not there    ``MISSING``
    its queue is known, and it is there               ``WAITING``
    its queue is long                                 ``BACKLOGGED``
    anything else                                     ``POSSIBLY_QUEUED``
    ================================================  =============================================

    A message that is not in its queue may be with a worker whose heartbeat has not reported it yet.
    So it is missing only if a snapshot at least ``policy.known_after`` ago did not find it either.
    """
    find = _Locator(snapshot, before, policy)
    states = {message: find.state(message) for message in messages}
    given = snapshot.broker.unacknowledged
    unowned = tuple(
        task_id
        for tag, task_id in given.items()
        if tag not in before.deliveries and task_id not in find.reserved
    )
    return Located(states, unowned, Seen(find.missing_since, find.deferred_at, frozenset(given)))


class _Locator:
    """Works on one snapshot, and changes only its own copies."""

    def __init__(self, snapshot: Snapshot, before: Seen, policy: RecoveryPolicy) -> None:
        self._now, self._broker, self._policy = snapshot.at, snapshot.broker, policy
        self.missing_since = _since(before.missing_since, snapshot.at - policy.missing_retention)
        # A message that is not deferred any more may still be older than the message of a process
        # that hangs. So it is remembered for that long.
        self.deferred_at = _since(before.deferred_at, snapshot.at - policy.possibly_queued_delay)
        owners = snapshot.reserved.items()
        alive = [each for owner, some in owners if owner in snapshot.alive for each in some]
        self.reserved = {each.task_id for _, some in owners for each in some}
        self._alive = {each.task_id for each in alive}
        self._deferred = {each.task_id for each in alive if each.deferred}

    def state(self, message: Expected) -> MessageState:
        waiting = self._broker.waiting.get(message.queue)
        absent = waiting is not None and message.task_id not in waiting
        there = waiting is not None and not absent
        if message.task_id in self.reserved and not (there and message.task_id not in self._alive):
            self.missing_since.pop(message, None)
            return self._reserved(message.task_id)
        if not absent:
            self.missing_since.pop(message, None)
        if message.queue in self._broker.empty or (absent and self._missing_for_long(message)):
            return MessageState.MISSING
        if there:
            return MessageState.WAITING
        long = message.queue in self._broker.long
        return MessageState.BACKLOGGED if long else MessageState.POSSIBLY_QUEUED

    def _reserved(self, task_id: str) -> MessageState:
        if task_id in self._deferred:
            self.deferred_at[task_id] = self._now
            return MessageState.WAITING
        if task_id not in self._alive:
            return MessageState.LOST_WITH_WORKER
        deferred = task_id in self.deferred_at
        return MessageState.WAITING if deferred else MessageState.POSSIBLY_QUEUED

    def _missing_for_long(self, message: Expected) -> bool:
        since = self.missing_since.setdefault(message, self._now)
        return self._now - since >= self._policy.known_after


def _since(times: Mapping[K, float], earliest: float) -> dict[K, float]:
    return {key: at for key, at in times.items() if at > earliest}
