"""What a step's task reported, or what became known about its delivery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_saga.core.context.data import values_of
from celery_saga.core.decide.failing import (
    compensation_attempt_failed,
    follow_up,
    never_sent,
)
from celery_saga.core.decide.forward import answered, over
from celery_saga.core.decide.late_effects import late_effect
from celery_saga.core.decide.policy import FailureKind
from celery_saga.core.decide.remote import request_failed, requested
from celery_saga.core.decide.rollback import compensated, continue_rollback
from celery_saga.core.decide.transitions import (
    call_of,
    check_at,
    due_soon,
    returned_keys,
    with_possible_effect,
    with_result,
)
from celery_saga.core.events import (
    ClaimVoided,
    Decision,
    StepFailed,
    StepReleased,
    StepRevoked,
    StepSucceeded,
    TaskUnknown,
)
from celery_saga.core.execution import (
    Direction,
    Failure,
    SagaExecution,
    SagaStepExecution,
    StepRef,
    StepStatus,
)
from celery_saga.core.recovery.policy import POLICY
from celery_saga.core.remote import SagaResponseStatus
from celery_saga.core.state import replace

Report = StepSucceeded | StepFailed | StepReleased | ClaimVoided | StepRevoked | TaskUnknown


def current(execution: SagaExecution, event: Report) -> SagaStepExecution | None:
    """The step that a report is about, if the report comes from the owner of the claim.

    A report with a token needs that claim. An unclaimed ref of the same epoch accepts one too: the
    store lost the claim (it came back from an older state), and no other delivery has it.
    A report without a token comes from the main process of the worker that held the message; it
    counts for a claim of that worker and for no claim at all.
    """
    step = execution.at_step(event.ref)
    if step is None or execution.ref(event.ref.path) != event.ref:
        return None
    if step.claim is None:
        return step
    token = getattr(event, "token", "")
    if token:
        return step if step.claim.token == token else None
    return step if step.claim.instance == getattr(event, "instance", "") else None


def on_step_succeeded(execution: SagaExecution, event: StepSucceeded) -> Decision:
    """The step's task returned."""
    path, step = event.ref.path, current(execution, event)
    if step is None:
        return _unawaited(execution, event)
    if event.answer is not None:
        return answered(execution, path, event.answer, event.at)
    if event.request is not None:
        return requested(execution, event)
    execution = with_result(execution, event)
    if event.ref.direction is Direction.COMPENSATION:
        return compensated(execution, path, event.at)
    execution = execution.ended(
        path,
        status=StepStatus.SUCCEEDED,
        revised=None,
        request=None,
        **_effect_of(execution, event, step),
        kept=values_of(event.own).texts() or None,
        returned=returned_keys(execution, event),
        expected_at=None,
        ended_at=event.at,
    )
    return over(execution, path, event.at)


def _effect_of(
    execution: SagaExecution, event: StepSucceeded, step: SagaStepExecution
) -> dict[str, Any]:
    """What a step that succeeded leaves behind; of a remote step its request has said it."""
    if execution.plan.step(event.ref.path).is_remote:
        return {}
    return {"effect": True, "effect_tokens": (*step.effect_tokens, event.token)}


def _unawaited(execution: SagaExecution, event: StepSucceeded | StepFailed) -> Decision:
    """A report of a task that has no claim any more: only its effect is of interest."""
    step = execution.at_step(event.ref)
    if step is None or execution.plan.step(event.ref.path).is_remote:
        return Decision(execution)
    return late_effect(execution, event)


def on_step_failed(execution: SagaExecution, event: StepFailed) -> Decision:
    """The step's task raised, or was ended by a limit."""
    step = current(execution, event)
    if step is None:
        return _unawaited(execution, event) if event.effect else Decision(execution)
    if event.retries is not None and event.retries < step.retries:
        return Decision(execution)  # a copy of a message that was retried since
    if not event.failure.step:  # a worker's main process knows the task's id alone
        event = replace(event, failure=replace(event.failure, step=step.name))
    if step.open_request is not None:  # it could not be sent, or no service has its task
        kind = FailureKind.FINAL if event.final else FailureKind.FAILED
        return request_failed(execution, event.ref, event.failure, event.at, kind, effect=False)
    kind = FailureKind.FINAL if event.final else FailureKind.FAILED
    if event.ref.direction is Direction.COMPENSATION:
        return compensation_attempt_failed(execution, event.ref, event.failure, event.at, kind)
    return _forward_failed(execution, event, kind)


def _forward_failed(execution: SagaExecution, event: StepFailed, kind: FailureKind) -> Decision:
    path, plan = event.ref.path, execution.plan
    step, possible = execution.steps[path], event.effect and not plan.step(path).tasks_read_only
    refused = step.reply_status == SagaResponseStatus.ERROR
    if refused and plan.step(path).compensation is not None:
        possible = True  # what handles a refusal has failed: as in the Minos framework
    tokens = (event.token,) if possible and event.token else ()
    execution = execution.ended(
        path,
        attempts=step.attempts + 1,
        effect=step.effect or possible,
        effect_tokens=step.effect_tokens + tokens,
        error=event.failure,
        revised=None,
    )
    # Only the pivot itself settles it: that its last attempt failed cleanly says nothing of the
    # ones before it, unless it says that it is final.
    left_open = step.effect and path == plan.pivot and not event.final
    unknown = possible or left_open
    return follow_up(execution, event.ref, kind, event.failure, event.at, unknown=unknown)


def on_step_released(execution: SagaExecution, event: StepReleased) -> Decision:
    """Celery sends the task again; until then the step has no claim."""
    if event.lost:
        execution = _may_have_happened(execution, event.ref)
    step = current(execution, event)
    if step is None:
        return Decision(_revised_by_overtaken(execution, event))
    if event.retries < step.retries:
        return Decision(execution)
    if step.claim is None and event.retries == step.retries:
        return Decision(execution)  # it was released before
    if event.lost and event.retries == step.retries:
        return Decision(execution)  # the next delivery has claimed it already
    if execution.rollback_reason is not None and event.ref.direction is Direction.FORWARD:
        return continue_rollback(execution.with_step(event.ref.path, claim=None), event.at)
    execution = execution.with_step(
        event.ref.path,
        claim=None,
        retries=event.retries,
        revised=_revised(step, event),
        expected_at=max(event.at, event.expected_at),
        republished=0,
        unclaimed=0,
        not_before=None,
        task_unknown_since=None,
    )
    return Decision(due_soon(execution, event.at))


def _revised_by_overtaken(execution: SagaExecution, event: StepReleased) -> SagaExecution:
    """The next delivery has the claim already: what the retry changed is kept all the same.

    Celery sends a retry before its task ends, so that another process may be quicker.
    """
    step, path = execution.at_step(event.ref), event.ref.path
    if step is None or execution.ref(path) != event.ref or event.retries != step.retries:
        return execution
    revised = _revised(step, event)
    return execution if revised == step.revised else execution.with_step(path, revised=revised)


def _revised(step: SagaStepExecution, event: StepReleased) -> Mapping[str, Any] | None:
    """What all retries so far have changed: each begins with the message of the one before."""
    before, new = step.revised or {}, event.revised or {}
    parts = {
        part: {**before.get(part, {}), **new.get(part, {})}
        for part in ("options", "headers")
        if part in before or part in new
    }
    return {**before, **new, **parts} or None


def _may_have_happened(execution: SagaExecution, ref: StepRef) -> SagaExecution:
    step = execution.at_step(ref)
    if step is None or step.effect or execution.ref(ref.path) != ref:
        return execution
    if execution.plan.step(ref.path).tasks_read_only:
        return execution
    return execution.with_step(ref.path, effect=True)


def on_claim_voided(execution: SagaExecution, event: ClaimVoided) -> Decision:
    """The holder is lost: run the step again under the same key, or compensate it, as planned."""
    step = current(execution, event)
    if step is None or (step.claim is None and not event.started):
        return Decision(execution)
    ref, at, claim = event.ref, event.at, step.claim
    failure = _lost(step, began=claim is not None)
    execution = execution.ended(ref.path, lost=step.lost + 1)
    if ref.direction is Direction.FORWARD:
        execution = with_possible_effect(execution, ref.path, claim is not None)
        execution = execution.with_step(ref.path, error=failure)
    began = None if claim is None else claim.at
    return follow_up(execution, ref, FailureKind.LOST, failure, at, began=began)


def _lost(step: SagaStepExecution, began: bool) -> Failure:
    if began:
        return Failure("OutcomeUnknown", "the process that ran the task was lost", step.name)
    return Failure("ProcessLost", "the process died before the task began", step.name)


def on_step_revoked(execution: SagaExecution, event: StepRevoked) -> Decision:
    """Dropped before it was claimed: nothing happened. Killed while it ran: it may have."""
    step = current(execution, event)
    if step is None or (step.claim is not None and not event.terminated):
        return Decision(execution)
    failed = StepFailed(
        event.at,
        event.ref,
        event.failure,
        instance=event.instance,
        effect=step.claim is not None,
    )
    return on_step_failed(execution, failed)


def on_task_unknown(execution: SagaExecution, event: TaskUnknown) -> Decision:
    """Offer the task again, slower each time; after the grace an operator is needed."""
    path, step = event.ref.path, current(execution, event)
    if step is None or step.claim is not None:
        return Decision(execution)
    since = step.task_unknown_since if step.task_unknown_since is not None else event.at
    task = call_of(execution, path, event.ref.direction).task
    if event.at - since >= execution.plan.unknown_task_grace:
        failure = Failure("NotRegistered", f"no worker knows task {task!r}", step.name)
        return never_sent(execution, event.ref, failure, event.at)
    longer = POLICY.unknown_task_delay * 2.0 ** min(step.republished, 30)
    delay = min(POLICY.unknown_task_delay_max, longer)
    until = event.at + delay
    execution = execution.with_step(path, task_unknown_since=since, not_before=until)
    return Decision(check_at(execution, until))
