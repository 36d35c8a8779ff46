"""Takes replies to the requests of remote steps."""

from __future__ import annotations

import logging
from typing import Any

from celery_saga.core.decide.observed import log_fields
from celery_saga.core.events import ReplyReceived
from celery_saga.core.execution import Direction, StepRef
from celery_saga.core.remote import Outcome, SagaResponse
from celery_saga.errors import SagaExecutionNotFoundException
from celery_saga.messaging.inspection import stored_outcome
from celery_saga.runtime import Runtime

log = logging.getLogger("celery_saga")


def receive(
    runtime: Runtime, saga_id: str, ref: StepRef, token: str, result: Any, failed: bool
) -> bool:
    """Take the outcome of another service's task; returns whether it changed anything.

    Args:
        result: of one that failed, its id: what it raised is in the result backend, if that is
            shared.
    """
    if failed:
        stored = stored_outcome(runtime.app, str(result))
        outcome: Outcome | None = stored or Outcome.of_failure(str(result))
    else:
        outcome = Outcome.of_result(result)
    return outcome is not None and apply(runtime, saga_id, ref, token, outcome)


def reply_to(runtime: Runtime, saga_id: str, step: str, token: str, response: SagaResponse) -> bool:
    """Take a reply that does not come from a Celery task; ``step`` is a name, or a request's ref.

    Raises:
        SagaExecutionNotFoundException: no saga has this id.
        ValueError: the saga has no remote step of that name.
    """
    execution = runtime.orchestrator.load(saga_id, context=False)
    remote = {
        execution.steps[path].name: path
        for path in execution.steps.paths()
        if execution.plan.step(path).is_remote
    }
    known = StepRef.parse(f"{saga_id}~{step}")
    path = known[1].path if known is not None else remote.get(step)
    if path is None or path not in remote.values():
        raise ValueError(
            f"reply: saga {execution.name!r} has no remote step {step!r}: expected one of "
            f"{sorted(remote)}, or the 'ref' of the request's header"
        )
    return apply(runtime, saga_id, StepRef(path, Direction.FORWARD, 0), token, Outcome(response))


def respond(runtime: Runtime, response: Any) -> None:
    """Take a response with the id of its saga and the token of its request.

    Raises:
        TypeError: it is not a :class:`SagaResponse`.
        ValueError: it has no id, or no token.
        SagaExecutionNotFoundException: no saga has its id.
    """
    if not isinstance(response, SagaResponse):
        raise TypeError(f"response: expected a SagaResponse, found a {type(response).__name__}")
    if not response.uuid or not response.token:
        raise ValueError(
            "response: expected the id of its saga and the token of its request, both from the "
            "request's header 'saga_request': SagaResponse(content, uuid=..., token=...)"
        )
    saga_id = str(response.uuid)
    execution = runtime.orchestrator.load(saga_id, context=False)
    for path, step in execution.steps.items():
        request = step.request
        if response.token in step.requests or (request and request.token == response.token):
            ref = StepRef(path, Direction.FORWARD, 0)
            apply(runtime, saga_id, ref, response.token, Outcome(response))


def apply(runtime: Runtime, saga_id: str, ref: StepRef, token: str, outcome: Outcome) -> bool:
    """Apply a reply to a saga; returns whether it changed anything.

    A saga that does not exist (any more) is logged, and nothing else.
    """
    reply, error = outcome.reply(runtime.codec, runtime.settings.context_limit)
    orchestrator = runtime.orchestrator
    event = ReplyReceived(orchestrator.store.now(), ref, token, reply, error)
    try:
        _, changed = orchestrator.apply(saga_id, event, timeout=orchestrator.store_timeout)
    except SagaExecutionNotFoundException:
        log.info("a reply to saga %s, which does not exist", saga_id, extra=log_fields(saga_id))
        return False
    if not changed:
        text, extra = "saga %s: a reply to %s is late or foreign, and dropped", log_fields(saga_id)
        log.info(text, saga_id, ref, extra=extra)
    return changed
