"""The start, and the overdue check: everything that happens because time has passed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_saga.core.decide.forward import begin, send_what_waited
from celery_saga.core.decide.operators import request_rollback
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
from celery_saga.core.decide.unclaimed import on_unclaimed
from celery_saga.core.events import Alert, Decision, NotifyCallers, Overdue, ResultStored, Started
from celery_saga.core.execution import SagaExecution, SagaStatus, StepRef
from celery_saga.core.recovery.policy import POLICY
from celery_saga.core.state import replace


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
    """The end is told; callers are told of the first one only."""
    same = event.stuck in (None, execution.stuck_count)
    if execution.status is event.status and same:
        if not execution.result_pending:
            return Decision(execution)
        callbacks = _callbacks_left(execution, event.status)
        stored = replace(execution, result_pending=False, callbacks=callbacks, due_at=None)
        return Decision(stored)
    if execution.callbacks is not None:
        # It has gone on since, and they are told.
        execution = replace(execution, callbacks=_callbacks_left(execution, event.status))
    if not (execution.settled and execution.wants_result):
        return Decision(execution)
    # The result of the older end may have been stored over that of the newer one.
    execution = replace(execution, result_pending=True, due_at=event.at + CHECK_INTERVAL)
    return Decision(execution, (NotifyCallers(execution.status, again=True),))


def _callbacks_left(execution: SagaExecution, status: SagaStatus) -> Mapping[str, Any] | None:
    """Callers are told of the first end alone, as of a task's; the saga's own callbacks of each.

    One that is stuck has another when an operator has seen to it, and so has one that is undone
    when a late effect reopens it.
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
