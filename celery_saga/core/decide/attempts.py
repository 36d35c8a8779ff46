"""The record of attempts: what ran a step, from when to when, and how that ended."""

from __future__ import annotations

from celery_saga.core.events import (
    ClaimVoided,
    Event,
    StepFailed,
    StepReleased,
    StepRevoked,
    StepSucceeded,
)
from celery_saga.core.execution import Claim, Direction, Failure, SagaExecution
from celery_saga.core.state import ATTEMPT_ERROR, ATTEMPTS_KEPT, Attempt, AttemptOutcome

_OUTCOMES: dict[type, AttemptOutcome] = {
    StepSucceeded: AttemptOutcome.SUCCEEDED,
    StepFailed: AttemptOutcome.FAILED,
    StepReleased: AttemptOutcome.RETRIED,
    ClaimVoided: AttemptOutcome.LOST,
    StepRevoked: AttemptOutcome.REVOKED,
}


def with_attempts(before: SagaExecution, after: SagaExecution, event: Event) -> SagaExecution:
    """``after`` with an attempt for each claim that this event has ended."""
    outcome = _OUTCOMES.get(type(event))
    if outcome is None:
        return after
    for ref in before.active:
        claim = before.steps[ref.step].claim
        if claim is None or after.steps[ref.step].claim == claim:
            continue
        if isinstance(event, StepReleased) and event.lost:
            outcome = AttemptOutcome.LOST
        failure = getattr(event, "failure", None)
        after = _with_attempt(after, ref.step, ref.direction, claim, event.at, outcome, failure)
    return after


def _with_attempt(
    execution: SagaExecution,
    index: int,
    direction: Direction,
    claim: Claim,
    at: float,
    outcome: AttemptOutcome,
    failure: Failure | None,
) -> SagaExecution:
    log = execution.steps[index].log
    attempt = Attempt(
        number=log[-1].number + 1 if log else 1,
        direction=direction,
        node=claim.node,
        instance=claim.instance,
        claimed_at=round(claim.at, 3),
        ended_at=round(at, 3),
        outcome=outcome,
        error="" if failure is None else str(failure)[:ATTEMPT_ERROR],
    )
    return execution.with_step(index, log=(*log, attempt)[-ATTEMPTS_KEPT:])
