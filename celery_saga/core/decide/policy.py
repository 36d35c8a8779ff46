"""What follows when an attempt of a step has failed: one pure function, and its table.

The first row that fits an attempt holds; ``-`` fits everything.

========== ============ ====== ======  =============  ===========  =====  ============  ============
kind       direction    place  effect  attempts_left  reruns_left  rerun  rolling_back  what follows
========== ============ ====== ======  =============  ===========  =====  ============  ============
FAILED     compensation -      -       yes            -            -      -             RETRY_LATER
LOST       compensation -      -       -              yes          -      -             RETRY_NOW
-          compensation -      -       -              -            -      -             COMPENSATE
UNSENDABLE forward      -      -       -              -            -      -             STUCK
FAILED     forward      PIVOT  yes     -              yes          -      -             RETRY_LATER
FAILED     forward      PIVOT  yes     -              no           -      -             STUCK
FAILED     forward      -      -       yes            -            -      no            RETRY_LATER
LOST       forward      BEFORE yes     -              yes          no     -             COMPENSATE
LOST       forward      -      -       -              yes          -      no            RETRY_NOW
-          forward      AFTER  -       -              -            -      -             STUCK
-          forward      PIVOT  yes     -              -            -      -             STUCK
-          forward      -      -       -              -            -      -             COMPENSATE
========== ============ ====== ======  =============  ===========  =====  ============  ============

In words: the pivot whose effect may stand has no compensation, so that only its own report settles
it, and it is run again until the limit of redeliveries. From there on nothing is compensated: what
cannot continue needs an operator. A compensation that is not tried again is kept as failed, and the
others are run; the saga is stuck at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from celery_saga.core.execution import Direction, SagaExecution, StepRef
from celery_saga.core.plan import Call, Path, Plan


class FailureKind(Enum):
    """How an attempt of a step has failed."""

    FAILED = "its task raised, or was ended by a limit"
    FINAL = "as FAILED, and another attempt would not help"
    LOST = "the process that ran it was lost"
    UNCLAIMED = "its message was sent often enough, and no worker has claimed it"
    UNSENDABLE = "no worker knows its task, or its message reaches no queue"


class Place(Enum):
    """Where a step is in its plan; without a pivot all steps are BEFORE."""

    BEFORE = "before the pivot"
    PIVOT = "the pivot"
    AFTER = "after the pivot, or a commit task"


class AfterFailure(Enum):
    """What follows."""

    RETRY_NOW = "the step is sent again, under a new epoch"
    RETRY_LATER = "the same, after the delay of its retries"
    COMPENSATE = "the rollback begins, or continues with the next compensation"
    STUCK = "an operator is needed"


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt that has failed, as far as what follows depends on it.

    Args:
        kind: how it has failed.
        direction: whether a step or a compensation has.
        place: of the step.
        effect: the step may have taken effect, by this attempt or an earlier one.
        attempts_left: the options of its task allow another attempt.
        reruns_left: the plan allows another one after an unknown outcome.
        rerun: its task is run again when its outcome is unknown.
        rolling_back: the rollback was asked for already.
    """

    kind: FailureKind
    direction: Direction
    place: Place
    effect: bool
    attempts_left: bool
    reruns_left: bool
    rerun: bool
    rolling_back: bool

    @classmethod
    def of(
        cls, execution: SagaExecution, ref: StepRef, call: Call, kind: FailureKind
    ) -> FailedAttempt:
        """The last attempt of ``ref``, which the step's record counts already."""
        step, plan = execution.steps[ref.path], execution.plan
        # A failure that the task reports may leave the outcome open, too.
        reruns = step.lost + (step.attempts if kind is FailureKind.FAILED else 0)
        return cls(
            kind,
            ref.direction,
            place_of(plan, ref.path),
            effect=step.effect,
            attempts_left=call.max_attempts is None or step.attempts < call.max_attempts,
            reruns_left=reruns <= plan.max_redeliveries,
            rerun=call.rerun,
            rolling_back=execution.rollback_reason is not None,
        )


def place_of(plan: Plan, path: Path) -> Place:
    """Where a step is."""
    if plan.committed(path) is not None:
        return Place.AFTER
    if plan.pivot is None or path < plan.pivot:
        return Place.BEFORE
    return Place.PIVOT if path == plan.pivot else Place.AFTER


def after_failure(attempt: FailedAttempt) -> AfterFailure:
    """What follows; see the table."""
    if attempt.direction is Direction.COMPENSATION:
        return _of_a_compensation(attempt)
    if attempt.kind is FailureKind.UNSENDABLE:
        return AfterFailure.STUCK
    open_pivot = attempt.place is Place.PIVOT and attempt.effect
    if attempt.kind is FailureKind.FAILED:
        if open_pivot:
            return AfterFailure.RETRY_LATER if attempt.reruns_left else AfterFailure.STUCK
        if attempt.attempts_left and not attempt.rolling_back:
            return AfterFailure.RETRY_LATER
    # From the pivot on it can only be run again.
    again = attempt.rerun or not attempt.effect or attempt.place is not Place.BEFORE
    left = attempt.reruns_left and not attempt.rolling_back
    if attempt.kind is FailureKind.LOST and again and left:
        return AfterFailure.RETRY_NOW
    stays = open_pivot or attempt.place is Place.AFTER
    return AfterFailure.STUCK if stays else AfterFailure.COMPENSATE


def _of_a_compensation(attempt: FailedAttempt) -> AfterFailure:
    if attempt.kind is FailureKind.FAILED and attempt.attempts_left:
        return AfterFailure.RETRY_LATER
    if attempt.kind is FailureKind.LOST and attempt.reruns_left:
        return AfterFailure.RETRY_NOW
    return AfterFailure.COMPENSATE
