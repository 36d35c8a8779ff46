"""A message that is sent, and that nobody has claimed.

It may be lost, wait in its queue, or have been taken by a worker that never claims its step: one of
an older deploy without this library, for one. From outside the last looks like the first, so the
message is sent again, ever more slowly; and that has an end.
"""

from __future__ import annotations

from celery_saga.core.decide.failing import given_up, never_sent
from celery_saga.core.decide.transitions import CHECK_INTERVAL, check_by
from celery_saga.core.events import Decision, Dispatch, MessageState, Overdue
from celery_saga.core.execution import Failure, SagaExecution, SagaStepExecution, StepRef
from celery_saga.core.plan import Plan
from celery_saga.core.recovery.policy import POLICY

#: Seconds after which a message that may still wait is sent again, doubling with each further time
#: up to the second figure.
_DELAYS = {
    MessageState.POSSIBLY_QUEUED: (POLICY.possibly_queued_delay, POLICY.possibly_queued_delay_max),
    MessageState.BACKLOGGED: (POLICY.backlogged_delay, POLICY.backlogged_delay_max),
}

#: A message that nobody has, and of these the ones of which resends are counted: a broker that
#: takes nothing is waited for.
_COUNTED = frozenset({MessageState.LOST_WITH_WORKER, MessageState.MISSING, MessageState.NOWHERE})
_MISSED = _COUNTED | {MessageState.UNSENT}


def most_resends(plan: Plan) -> int:
    """How often a message that nobody has is sent again before that is given up.

    Twice as often as a step is run whose outcome is unknown: servers and workers may lose some of
    them that were never taken.
    """
    return 2 * (plan.max_redeliveries + 1)


def on_unclaimed(
    execution: SagaExecution, step: SagaStepExecution, ref: StepRef, event: Overdue
) -> Decision:
    """Wait for the message, send it again under the same ref, or give it up."""
    at, since = event.at, step.expected_at if step.expected_at is not None else event.at
    if step.not_before is not None:
        return _send_again(execution, step, ref, at)  # the task was unknown; offer it again
    seldom = step.unclaimed < POLICY.missing_at_once
    if (
        event.state_of(ref) is MessageState.LOST_WITH_WORKER and seldom and at >= since
    ):  # its countdown is kept
        return _send_again(execution, step, ref, at, missed=1)
    if at < since + CHECK_INTERVAL:
        return Decision(check_by(execution, since + CHECK_INTERVAL))
    if event.state_of(ref) in _MISSED:
        delay = resend_delay(step.unclaimed)
        if at < since + delay:
            return Decision(check_by(execution, since + delay))
        if event.state_of(ref) not in _COUNTED:
            return _send_again(execution, step, ref, at)
        if step.unclaimed >= most_resends(execution.plan):
            return _give_up(execution, step, ref, event)
        return _send_again(execution, step, ref, at, missed=1)
    if event.state_of(ref) in _DELAYS:
        first, most = _DELAYS[event.state_of(ref)]
        if at >= since + min(most, first * 2.0 ** min(step.republished, 10)):
            return _send_again(execution, step, ref, at)
    return Decision(check_by(execution, at + CHECK_INTERVAL))


def resend_delay(missed: int) -> float:
    """Seconds from one sending of a message that nobody has to the next."""
    often = missed - POLICY.missing_at_once
    if often < 0:
        return CHECK_INTERVAL
    return min(POLICY.missing_delay_max, CHECK_INTERVAL * 2.0 ** min(often + 1, 30))


def _send_again(
    execution: SagaExecution, step: SagaStepExecution, ref: StepRef, at: float, missed: int = 0
) -> Decision:
    execution = execution.with_step(
        ref.path,
        expected_at=at,
        republished=step.republished + 1,
        unclaimed=step.unclaimed + missed,
        not_before=None,
    )
    return Decision(check_by(execution, at + CHECK_INTERVAL), (Dispatch(ref, step.retries),))


def _give_up(
    execution: SagaExecution, step: SagaStepExecution, ref: StepRef, event: Overdue
) -> Decision:
    """Somebody took it each time, and may have run the task; or it never reached anybody."""
    sent = f"its message was sent {step.unclaimed + 1} times"
    if event.state_of(ref) is MessageState.NOWHERE:
        text = f"{sent} and reached no queue: look at the task's routes and its apply_async()"
        return never_sent(execution, ref, Failure("NotSent", text, step.name), event.at)
    text = f"{sent} and no worker claimed the step: do all workers of its queue know the saga?"
    return given_up(execution, ref, Failure("NeverClaimed", text, step.name), event.at)
