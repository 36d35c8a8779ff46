"""Decides which claims are reclaimed: those of dead worker instances, and own ones without a task.

Pure: the caller passes the times, and keeps the returned state for the next heartbeat.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from celery_saga.core.execution import StepRef
from celery_saga.core.recovery.policy import RecoveryPolicy

#: A claim: the id of the saga and the step.
ClaimRef = tuple[str, StepRef]


@dataclass(frozen=True)
class Steadiness:
    """Since when an instance has sent its heartbeats without a gap or a leap of the store's clock.

    Only a steady instance reclaims the claims of others. After an outage of the store, or its
    failover to a machine with another clock, all instances look dead to the first heartbeat.

    Args:
        since: the worker's time; ``None``: no heartbeat was sent yet.
        sent_at: when the newest heartbeat was sent, in the worker's time.
        store_time: the store's time at that heartbeat.
    """

    since: float | None = None
    sent_at: float = 0.0
    store_time: float = 0.0

    def after(self, sent_at: float, store_time: float, policy: RecoveryPolicy) -> Steadiness:
        """Return the state after one more heartbeat."""
        passed, passed_there = sent_at - self.sent_at, store_time - self.store_time
        broken = passed > policy.gap or passed_there - passed > policy.clock_leap
        since = sent_at if self.since is None or broken else self.since
        return Steadiness(since, sent_at, store_time)

    def is_steady(self, policy: RecoveryPolicy) -> bool:
        """Whether claims of other instances may be reclaimed now."""
        return self.since is not None and self.sent_at - self.since >= policy.steady_after


def reclaimable(expired: Iterable[str], alive: Collection[str], steady: bool) -> tuple[str, ...]:
    """Return the instances whose claims may be reclaimed.

    Args:
        expired: instances that were found dead by a heartbeat.
        alive: instances that are alive now: one of them may have sent a heartbeat since.
        steady: whether the calling instance is steady.
    """
    return tuple(each for each in expired if each not in alive) if steady else ()


@dataclass(frozen=True)
class OwnClaims:
    """The claims of an instance that had no task in the worker when they were last checked.

    A claim is lost when it has no task at two checks. At the first one, the main process may not
    have reported the end of the task yet, and its report says more. A claim that has ended since
    then is not in the second check.

    Args:
        checked_at: the time of the last check, in the worker's time.
        absent: the claims without a task.
    """

    checked_at: float = 0.0
    absent: frozenset[ClaimRef] = frozenset()

    def check(
        self, now: float, claims: Iterable[ClaimRef], tasks: Collection[str], policy: RecoveryPolicy
    ) -> tuple[OwnClaims, frozenset[ClaimRef]]:
        """Return the state after this check, and the claims that are lost.

        Args:
            claims: all claims of the instance.
            tasks: ids of the tasks that the worker has.
        """
        if now - self.checked_at < policy.own_claims_interval:
            return self, frozenset()
        absent = frozenset(
            (saga_id, ref) for saga_id, ref in claims if ref.task_id(saga_id) not in tasks
        )
        return OwnClaims(now, absent), absent & self.absent
