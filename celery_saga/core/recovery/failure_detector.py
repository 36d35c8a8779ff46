"""Which claims are reclaimed: those of dead worker instances, and own ones that have no task.

Pure: the caller gives the times, and keeps what is returned for the next heartbeat.
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

    Other instances are reclaimed only by one that is steady. Neither an outage of the store, nor
    its failover to a machine with another clock, must make all look dead to the first heartbeat
    after it.

    Args:
        since: the worker's time; ``None``: no heartbeat was sent yet.
        sent_at: when the newest heartbeat was sent, in the worker's time.
        store_time: the store's time at that heartbeat.
    """

    since: float | None = None
    sent_at: float = 0.0
    store_time: float = 0.0

    def after(self, sent_at: float, store_time: float, policy: RecoveryPolicy) -> Steadiness:
        """What it is after one more heartbeat."""
        passed, passed_there = sent_at - self.sent_at, store_time - self.store_time
        broken = passed > policy.gap or passed_there - passed > policy.clock_leap
        since = sent_at if self.since is None or broken else self.since
        return Steadiness(since, sent_at, store_time)

    def is_steady(self, policy: RecoveryPolicy) -> bool:
        """Whether claims of other instances may be reclaimed now."""
        return self.since is not None and self.sent_at - self.since >= policy.steady_after


def reclaimable(expired: Iterable[str], alive: Collection[str], steady: bool) -> tuple[str, ...]:
    """The instances whose claims may be reclaimed.

    Args:
        expired: instances that were found dead by a heartbeat.
        alive: instances that are alive now: one of them may have sent a heartbeat since.
        steady: whether the instance that asks is steady.
    """
    return tuple(each for each in expired if each not in alive) if steady else ()


@dataclass(frozen=True)
class OwnClaims:
    """Which of an instance's own claims had no task in the worker when they were last checked.

    A claim is lost when it has no task at two checks. At the first, the main process may not have
    dealt with the end of the task yet, and what it reports says more. A claim that has ended since
    the first is not among those of the second.

    Args:
        checked_at: when they were checked, in the worker's time.
        absent: those without a task.
    """

    checked_at: float = 0.0
    absent: frozenset[ClaimRef] = frozenset()

    def check(
        self, now: float, claims: Iterable[ClaimRef], tasks: Collection[str], policy: RecoveryPolicy
    ) -> tuple[OwnClaims, frozenset[ClaimRef]]:
        """The state after this check, and the claims that are lost.

        Args:
            claims: all that the instance has.
            tasks: ids of the tasks that the worker has.
        """
        if now - self.checked_at < policy.own_claims_interval:
            return self, frozenset()
        absent = frozenset(
            (saga_id, ref) for saga_id, ref in claims if ref.task_id(saga_id) not in tasks
        )
        return OwnClaims(now, absent), absent & self.absent
