"""The start, and the overdue check: everything that happens because time has passed.

A message that no worker has claimed may be lost, wait in its queue, or have been taken by a worker
that never claims its step: one of an older deploy without this library, for one. From outside the
last looks like the first, so the message is sent again, ever more slowly; and that has an end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_saga.core.decide.failing import ended_unclaimed, never_sent
from celery_saga.core.decide.forward import begin, send_what_waited
from celery_saga.core.decide.operators import request_rollback
from celery_saga.core.decide.remote import check_request
from celery_saga.core.decide.transitions import (
    CHECK_INTERVAL,
    CLAIMED_CHECK_INTERVAL,
    check_at,
    check_by,
    deadline_failure,
    name_of_current,
    noted,
    past_pivot,
)
from celery_saga.core.events import (
    Alert,
    Decision,
    Dispatch,
    MessageState,
    NotifyCallers,
    Overdue,
    ResultStored,
    Started,
)
from celery_saga.core.execution import (
    Failure,
    SagaExecution,
    SagaStatus,
    SagaStepExecution,
    StepRef,
)
from celery_saga.core.plan import Plan
from celery_saga.core.recovery.policy import POLICY
from celery_saga.core.state import replace

#: Seconds after which a message that may still wait is sent again, doubling with each further time
#: up to the second figure.
_DELAYS = {
    MessageState.POSSIBLY_QUEUED: (POLICY.possibly_queued_delay, POLICY.possibly_queued_delay_max),
    MessageState.BACKLOGGED: (POLICY.backlogged_delay, POLICY.backlogged_delay_max),
}

#: A message that no worker has, and of these the ones of which resends are counted: a broker that
#: takes nothing is waited for.
_COUNTED = frozenset({MessageState.LOST_WITH_WORKER, MessageState.MISSING, MessageState.NOWHERE})
_MISSED = _COUNTED | {MessageState.UNSENT}


def on_started(execution: SagaExecution, event: Started) -> Decision:
    """Send the first step, or note when to."""
    if execution.status is not SagaStatus.CREATED or execution.due_at is not None:
        return Decision(execution)
    if event.not_before is not None and event.not_before > event.at:
        first = next(execution.frontier())
        execution = execution.with_step(first, not_before=event.not_before)
        return Decision(check_at(execution, event.not_before))
    return begin(check_at(execution, event.at + CHECK_INTERVAL), (0,), event.at)


def on_overdue(execution: SagaExecution, event: Overdue) -> Decision:
    """See whether the saga waits for something that will not come by itself."""
    if execution.settled:
        return _notified_again(execution, event.at)
    deadline = execution.deadline
    if deadline is not None and event.at >= deadline:
        return _deadline_passed(execution, event.at)
    decision = Decision(replace(execution, due_at=None))
    for ref in execution.active:
        decision = decision.then(_check_dispatch, ref, event)
    return decision.then(send_what_waited, event.at)


def _check_dispatch(execution: SagaExecution, ref: StepRef, event: Overdue) -> Decision:
    """See whether the message of a step is on its way, or a worker has claimed it."""
    if ref not in execution.active:
        return Decision(execution)  # it was cancelled because of another one
    step = execution.steps[ref.path]
    if step.open_request is not None:
        return check_request(execution, ref, event.at)
    if step.not_before is not None and event.at < step.not_before:
        return Decision(check_by(execution, step.not_before))
    if step.claim is not None:
        return Decision(check_by(execution, event.at + CLAIMED_CHECK_INTERVAL))
    return on_unclaimed(execution, step, ref, event)


def _notified_again(execution: SagaExecution, at: float) -> Decision:
    if not execution.result_pending:
        return Decision(execution)
    last = (execution.due_at or at) - execution.updated_at
    delay = min(POLICY.result_delay_max, 2 * max(CHECK_INTERVAL, last))
    return Decision(check_at(execution, at + delay), (NotifyCallers(execution.status, again=True),))


def on_result_stored(execution: SagaExecution, event: ResultStored) -> Decision:
    """The end is published; callers are notified of the first one only."""
    same = event.stuck in (None, execution.stuck_count)
    if execution.status is event.status and same:
        if not execution.result_pending:
            return Decision(execution)
        callbacks = _callbacks_left(execution, event.status)
        stored = replace(execution, result_pending=False, callbacks=callbacks, due_at=None)
        return Decision(stored)
    if execution.callbacks is not None:
        # It has continued since, and they are notified.
        execution = replace(execution, callbacks=_callbacks_left(execution, event.status))
    if not (execution.settled and execution.wants_result):
        return Decision(execution)
    # The result of the older end may have been stored over that of the newer one.
    execution = replace(execution, result_pending=True, due_at=event.at + CHECK_INTERVAL)
    return Decision(execution, (NotifyCallers(execution.status, again=True),))


def _callbacks_left(execution: SagaExecution, status: SagaStatus) -> Mapping[str, Any] | None:
    """Callers are notified of the first end alone, as of a task's; the saga's own of each.

    One that is stuck has another when an operator has seen to it, and so has one that a late
    effect reopens after its rollback.
    """
    own = (execution.callbacks or {}).get("on")
    return {"on": own} if own and status is not SagaStatus.COMPLETED else None


def _deadline_passed(execution: SagaExecution, at: float) -> Decision:
    failure = deadline_failure(name_of_current(execution))
    if not past_pivot(execution):
        return request_rollback(execution, failure, at)
    execution = noted(replace(execution, deadline=None), at, "deadline passed after the pivot")
    text = f"saga {execution.saga_id}: {failure.message}; past its pivot it can only go forward"
    return Decision(check_at(execution, at + CHECK_INTERVAL), (Alert("saga-deadline", text),))


def most_resends(plan: Plan) -> int:
    """How often a message that no worker has is sent again before that ends.

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
            return _end_resends(execution, step, ref, event)
        return _send_again(execution, step, ref, at, missed=1)
    if event.state_of(ref) in _DELAYS:
        first, most = _DELAYS[event.state_of(ref)]
        if at >= since + min(most, first * 2.0 ** min(step.republished, 10)):
            return _send_again(execution, step, ref, at)
    return Decision(check_by(execution, at + CHECK_INTERVAL))


def resend_delay(missed: int) -> float:
    """Seconds from one sending of a message that no worker has to the next."""
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


def _end_resends(
    execution: SagaExecution, step: SagaStepExecution, ref: StepRef, event: Overdue
) -> Decision:
    """A worker took it each time, and may have run the task; or it never reached one."""
    sent = f"its message was sent {step.unclaimed + 1} times"
    if event.state_of(ref) is MessageState.NOWHERE:
        text = f"{sent} and reached no queue: look at the task's routes and its apply_async()"
        return never_sent(execution, ref, Failure("NotSent", text, step.name), event.at)
    text = f"{sent} and no worker claimed the step: do all workers of its queue know the saga?"
    return ended_unclaimed(execution, ref, Failure("NeverClaimed", text, step.name), event.at)
