"""The state machine: ``decide(execution, event) -> Decision``.

Pure and total: no clock (the time is in the event, and it is the store's), no ids, no I/O. A stale,
duplicate or illegal event gives back the same execution and no commands. The shell loads, decides,
saves if the revision still matches, and then carries out the commands; recovery sends its events
through this same function. What follows when an attempt of a step has failed is one table:
:mod:`celery_saga.core.decide.policy`.

=====================  ============================================================================
event                  what it does
=====================  ============================================================================
Started                CREATED -> RUNNING, first step sent; or waits for its time
StepSucceeded          forward: next step, or COMPLETED, or the requested rollback;
                       rollback: the next compensation, or COMPENSATED, or STUCK if one had failed;
                       without the claim: a late effect, compensated again if that had begun
StepFailed             forward: engine retry (retriable, after the pivot) or rollback, with its own
                       compensation if the effect may have happened; after the pivot, when
                       final: STUCK;
                       rollback: engine retry, then COMPENSATION_FAILED and the next compensation
StepReleased           the claim ends, Celery sends the task again
ClaimVoided            sent again in a new epoch, slower from the second time on, or UNKNOWN and
                       rollback; from the pivot on, and compensations, always sent again; after
                       the cap rollback, or STUCK
StepRevoked            as StepFailed; clean if no worker had claimed it
TaskUnknown            offered again, slower; after the grace STUCK
Overdue                deadline; delays that are over; messages that are lost, sent again ever
                       slower, and at last of an unknown outcome, or STUCK where no queue has
                       them; settled: the result is published again until it is stored
ResultStored           settled: it is not checked any more; if it is an older end that was stored,
                       the newer is published again
CancelRequested        rollback, at once or when the claimed step has ended
Pause-, Resume-        RUNNING or COMPENSATING <-> PAUSED
Retry-, Skip-,         the ways out of STUCK
ResolveRequested
SignalReceived         the wait for it is over; or it is kept until one begins
RequestSent            a request is not sent again
ReplyReceived          what handles it is sent, or the step is over, or has failed; the same of a
                       compensation; to a request that is closed: a late effect
=====================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_saga.core import events
from celery_saga.core.decide.claims import with_attempts
from celery_saga.core.decide.operators import (
    on_cancel_requested,
    on_pause_requested,
    on_resolve_requested,
    on_resume_requested,
    on_retry_requested,
    on_signal_received,
    on_skip_requested,
)
from celery_saga.core.decide.outcomes import (
    on_claim_voided,
    on_step_failed,
    on_step_released,
    on_step_revoked,
    on_step_succeeded,
    on_task_unknown,
)
from celery_saga.core.decide.overdue import on_overdue, on_result_stored, on_started
from celery_saga.core.decide.remote import on_reply_received, on_request_sent
from celery_saga.core.decide.transitions import stuck_if_held
from celery_saga.core.events import Command, Decision, Dispatch, Event
from celery_saga.core.execution import SagaExecution
from celery_saga.core.state import replace

__all__ = ["decide"]

_HANDLERS: dict[type, Callable[[SagaExecution, Any], Decision]] = {
    events.Started: on_started,
    events.StepSucceeded: on_step_succeeded,
    events.StepFailed: on_step_failed,
    events.StepReleased: on_step_released,
    events.ClaimVoided: on_claim_voided,
    events.StepRevoked: on_step_revoked,
    events.TaskUnknown: on_task_unknown,
    events.Overdue: on_overdue,
    events.ResultStored: on_result_stored,
    events.CancelRequested: on_cancel_requested,
    events.PauseRequested: on_pause_requested,
    events.ResumeRequested: on_resume_requested,
    events.RetryRequested: on_retry_requested,
    events.SkipRequested: on_skip_requested,
    events.ResolveRequested: on_resolve_requested,
    events.SignalReceived: on_signal_received,
    events.RequestSent: on_request_sent,
    events.ReplyReceived: on_reply_received,
}


def decide(execution: SagaExecution, event: Event) -> Decision:
    """What follows from ``event``: the new execution, and the commands to carry out once saved."""
    decision: Decision = _HANDLERS[type(event)](execution, event)
    if decision.execution is execution:
        return decision
    if decision.execution.held is not None:
        decision = decision.then(stuck_if_held, event.at)
    after = with_attempts(execution, decision.execution, event)
    # A saga that continues has no result yet.
    pending = after.result_pending and after.settled
    after = replace(after, updated_at=event.at, result_pending=pending)
    return Decision(after, _still_meant(after, decision.commands))


def _still_meant(execution: SagaExecution, commands: tuple[Command, ...]) -> tuple[Command, ...]:
    """The commands without the dispatches that a later part of the decision has cancelled."""
    active = execution.active
    if execution.plan.linear:
        return commands
    return tuple(each for each in commands if not isinstance(each, Dispatch) or each.ref in active)
