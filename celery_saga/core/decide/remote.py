"""Remote steps: the request to another service, and its reply.

A remote step has up to three phases, each under an epoch of its own::

    phase     in its record               what is sent                 what ends it
    --------  --------------------------  ---------------------------  ---------------------
    build     no request                  the task that makes it       its report
    request   a request, without a reply  the task of another service  a reply, the timeout
    handler   a request with a reply      on_success or on_error       its report

A compensation has the first two. No worker claims a request. From the moment at which it is sent
its effect may be there, until the other service has refused it (status ERROR). A reply has the
request's token; without the right one it changes nothing. A request without a reply that the saga
no longer waits for keeps its token in the record: if it succeeds after all, that is a late effect.
"""

from __future__ import annotations

from celery_saga.core.context.codec import JSON
from celery_saga.core.context.masking import masked
from celery_saga.core.decide.failing import compensation_attempt_failed, follow_up
from celery_saga.core.decide.forward import begin, over
from celery_saga.core.decide.late_effects import late_effect
from celery_saga.core.decide.policy import FailureKind
from celery_saga.core.decide.rollback import compensated, continue_rollback
from celery_saga.core.decide.transitions import (
    CHECK_INTERVAL,
    CLAIMED_CHECK_INTERVAL,
    check_by,
)
from celery_saga.core.events import (
    Decision,
    Dispatch,
    ReplyReceived,
    RequestSent,
    StepSucceeded,
)
from celery_saga.core.execution import Direction, Failure, SagaExecution, StepRef, StepStatus
from celery_saga.core.remote import SagaResponseStatus
from celery_saga.core.state import SagaStepExecution, replace

#: The error of a reply that is not a success, which callers get as one of that name.
REFUSED = "celery_saga.errors.SagaResponseException"


def requested(execution: SagaExecution, event: StepSucceeded) -> Decision:
    """A step's task has made its request: it is sent, unless it is too late for that."""
    path, at = event.ref.path, event.at
    execution = execution.ended(path, request=event.request, revised=None)
    if event.ref.direction is Direction.COMPENSATION:
        return continue_rollback(execution, at)
    execution = execution.with_step(path, status=StepStatus.WAITING)
    if execution.rollback_reason is not None:
        return continue_rollback(execution, at)
    return begin(execution, path, at)


def on_request_sent(execution: SagaExecution, event: RequestSent) -> Decision:
    """The broker has the request; from now on only its reply or its timeout ends the phase."""
    step = execution.at_step(event.ref)
    request = None if step is None else step.open_request
    if request is None or request.sent or execution.ref(event.ref.path) != event.ref:
        return Decision(execution)
    return Decision(execution.with_step(event.ref.path, request=replace(request, sent=True)))


def check_request(execution: SagaExecution, ref: StepRef, at: float) -> Decision:
    """See whether the time of a request has passed, or whether it was not sent."""
    step = execution.steps[ref.path]
    request = step.open_request
    assert request is not None
    until = at if request.until is None else request.until
    if at >= until:
        text = f"no reply to the request to {request.message['target']!r} within its timeout"
        failure = Failure("RemoteTimeout", text, step.name)
        return request_failed(execution, ref, failure, at)
    if request.sent:
        return Decision(check_by(execution, min(until, at + CLAIMED_CHECK_INTERVAL)))
    again = (step.expected_at or at) + CHECK_INTERVAL
    if at < again:
        return Decision(check_by(execution, min(until, again)))
    execution = execution.with_step(
        ref.path, expected_at=at, republished=step.republished + 1, not_before=None
    )
    return Decision(check_by(execution, min(until, at + CHECK_INTERVAL)), (Dispatch(ref),))


def on_reply_received(execution: SagaExecution, event: ReplyReceived) -> Decision:
    """Another service has replied. Second, late, foreign and forged replies change nothing.

    With one exception: a request that was closed without a reply, and has succeeded all the same,
    has an effect.
    """
    path, step = event.ref.path, execution.at_step(event.ref)
    if step is None:
        return Decision(execution)
    request, ref = step.open_request, execution.ref(path)
    if request is None or ref is None or request.token != event.token:
        return _late(execution, event, step)
    status = SagaResponseStatus(event.reply["status"])
    if ref.direction is Direction.COMPENSATION:
        if status is SagaResponseStatus.SUCCESS:
            return compensated(execution, path, event.at)
        return request_failed(execution, ref, _failure_of(event, step), event.at)
    if status is SagaResponseStatus.SYSTEM_ERROR:
        return request_failed(execution, ref, _failure_of(event, step), event.at)
    return _answered(execution, event, step, status)


def _answered(
    execution: SagaExecution,
    event: ReplyReceived,
    step: SagaStepExecution,
    status: SagaResponseStatus,
) -> Decision:
    """The other service has done what was requested, or has refused it."""
    path, node, at = event.ref.path, execution.plan.step(event.ref.path), event.at
    succeeded = status is SagaResponseStatus.SUCCESS
    if not succeeded and node.handler(status) is None:
        failure, refused = _failure_of(event, step), FailureKind.FINAL
        ref = execution.ref(path) or event.ref
        return request_failed(execution, ref, failure, at, refused, effect=False)
    requests = _without(step, event.token)
    execution = execution.ended(
        path,
        requests=requests,
        effect=not node.read_only if succeeded else _possible(step, requests),
        effect_tokens=(*step.effect_tokens, event.token) if succeeded else step.effect_tokens,
        error=None,
    )
    if node.handler(status) is None:
        execution = execution.with_step(
            path, status=StepStatus.SUCCEEDED, request=None, expected_at=None, ended_at=at
        )
        return over(execution, path, at)
    assert step.request is not None
    request = replace(step.request, reply=event.reply)
    execution = execution.with_step(path, status=StepStatus.WAITING, request=request)
    return begin(execution, path, at)


def request_failed(
    execution: SagaExecution,
    ref: StepRef,
    failure: Failure,
    at: float,
    kind: FailureKind = FailureKind.FAILED,
    *,
    effect: bool = True,
) -> Decision:
    """A request has failed, or no reply has come in time.

    Args:
        effect: whether the other service may have done it all the same.
    """
    if ref.direction is Direction.COMPENSATION:
        return compensation_attempt_failed(execution, ref, failure, at, kind)
    step = execution.steps[ref.path]
    requests = step.requests
    if not effect and step.request is not None:
        requests = _without(step, step.request.token)
    execution = execution.ended(
        ref.path,
        attempts=step.attempts + 1,
        request=None,
        requests=requests,
        effect=_possible(step, requests),
        error=failure,
    )
    return follow_up(execution, ref, kind, failure, at)


def _without(step: SagaStepExecution, token: str) -> tuple[str, ...]:
    return tuple(each for each in step.requests if each != token)


def _possible(step: SagaStepExecution, requests: tuple[str, ...]) -> bool:
    """Whether an effect may be there of other requests than the one that has ended."""
    return step.effect and bool(requests or step.effect_tokens)


def _failure_of(event: ReplyReceived, step: SagaStepExecution) -> Failure:
    status = SagaResponseStatus(event.reply["status"])
    said = event.error or masked(JSON.loads(event.reply["content"]))
    return Failure(REFUSED, f"status {status.value} ({status.name}): {said}"[:2000], step.name)


def _late(execution: SagaExecution, event: ReplyReceived, step: SagaStepExecution) -> Decision:
    """A reply that is not waited for: only that a request has succeeded is of interest."""
    if event.token not in step.requests or event.reply["status"] != SagaResponseStatus.SUCCESS:
        return Decision(execution)
    ref = StepRef(event.ref.path, Direction.FORWARD, step.epoch)
    execution = execution.with_step(ref.path, requests=_without(step, event.token))
    return late_effect(execution, StepSucceeded(event.at, ref, event.token))
