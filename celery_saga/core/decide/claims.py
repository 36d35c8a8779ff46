"""Claims: which delivery may run a step, and the record of attempts that claims leave behind."""

from __future__ import annotations

from celery_saga.core.events import (
    ClaimVoided,
    Event,
    StepFailed,
    StepReleased,
    StepRevoked,
    StepSucceeded,
)
from celery_saga.core.execution import Claim, Direction, Failure, SagaExecution, StepRef
from celery_saga.core.plan import Path
from celery_saga.core.state import ATTEMPT_ERROR, ATTEMPTS_KEPT, Attempt, AttemptOutcome, replace

_OUTCOMES: dict[type, AttemptOutcome] = {
    StepSucceeded: AttemptOutcome.SUCCEEDED,
    StepFailed: AttemptOutcome.FAILED,
    StepReleased: AttemptOutcome.RETRIED,
    ClaimVoided: AttemptOutcome.LOST,
    StepRevoked: AttemptOutcome.REVOKED,
}


def claimed(execution: SagaExecution, ref: StepRef, claim: Claim) -> SagaExecution | None:
    """The execution with ``claim`` on ``ref``, or ``None`` if the ref is not to be had.

    The ref must be the one that was dispatched last; a free ref
    is taken unless a later Celery retry is awaited, one's own claim is confirmed (a lost reply),
    and a message with more Celery retries takes over, because Celery sends it only when the
    earlier attempt has ended.
    """
    step = execution.at_step(ref)
    if step is None or execution.ref(ref.path) != ref:
        return None
    held = step.claim
    if held is not None and held.token == claim.token:
        return execution
    if claim.retries < step.retries or (held is not None and claim.retries == step.retries):
        return None
    taken = execution.with_step(ref.path, claim=claim, retries=claim.retries)
    return replace(taken, revision=execution.revision + 1)


def with_attempts(before: SagaExecution, after: SagaExecution, event: Event) -> SagaExecution:
    """``after`` with an attempt for each claim that this event has ended."""
    outcome = _OUTCOMES.get(type(event))
    if outcome is None:
        return after
    for ref in before.active:
        record = before.steps.known(ref.path)  # one that was not read has not changed
        claim = None if record is None else record.claim
        if claim is None or after.steps[ref.path].claim == claim:
            continue
        if isinstance(event, StepReleased) and event.lost:
            outcome = AttemptOutcome.LOST
        failure = getattr(event, "failure", None)
        after = _with_attempt(after, ref.path, ref.direction, claim, event.at, outcome, failure)
    return after


def _with_attempt(
    execution: SagaExecution,
    path: Path,
    direction: Direction,
    claim: Claim,
    at: float,
    outcome: AttemptOutcome,
    failure: Failure | None,
) -> SagaExecution:
    log = execution.steps[path].log
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
    return execution.with_step(path, log=(*log, attempt)[-ATTEMPTS_KEPT:])
