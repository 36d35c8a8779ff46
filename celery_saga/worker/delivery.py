"""Recognizes the calls of a task that are deliveries of a saga's step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from celery import Celery
from celery.exceptions import Reject

from celery_saga.core.decide.observed import fields_of
from celery_saga.core.execution import SagaExecution, StepRef
from celery_saga.core.retry import retry_while_unavailable
from celery_saga.errors import SetupError, StoreUnavailable
from celery_saga.messaging.headers import HEADER
from celery_saga.messaging.message import header_of, mark_of
from celery_saga.runtime import runtime_of

log = logging.getLogger("celery_saga")


def delivery_of(request: Any) -> tuple[str, StepRef] | None:
    """Return saga id and ref if ``request`` is the delivery of a step; ``None`` for other calls."""
    return None if header_of(request) is None else StepRef.parse(request.id)


def restore_header(app: Celery, request: Any) -> tuple[str, StepRef] | None:
    """Like :func:`delivery_of`, for a request whose engine header a task class has overwritten.

    As an ordinary call, its body would run without a report, and the sweep would send the step
    again for ever. The header is restored, so that a retry has it again.

    Raises:
        Reject: the store is unavailable; the delivery is returned to the broker.
    """
    task_id = request.id
    if not isinstance(task_id, str) or "~" not in task_id:
        return None  # nearly all calls, so this is cheap: the store is not read
    found = StepRef.parse(task_id)
    if found is None:
        return None
    saga_id, ref = found
    try:
        orchestrator = runtime_of(app).orchestrator
    except SetupError:
        return None  # no store, no sagas: it is an id of the user's own
    try:
        load = partial(orchestrator.store.load, saga_id)
        execution = retry_while_unavailable(load, timeout=orchestrator.store_timeout)
    except StoreUnavailable as error:
        raise Reject(error, requeue=True) from error
    if execution is None or not _was_sent(execution, ref, request.task):
        return None  # an id of the user's own, which only resembles one of a step
    text, extra = "saga %s: the message of %s has lost its header", fields_of(execution, ref)
    log.info(text, saga_id, ref, extra=extra)
    given = request.headers if isinstance(request.headers, Mapping) else {}
    request.headers = {**given, HEADER: mark_of(execution)}
    return found


def _was_sent(execution: SagaExecution, ref: StepRef, task: str) -> bool:
    """Whether the saga has sent that task for ``ref``; the claim refuses it if it is stale."""
    step = execution.at_step(ref)
    if step is None or ref.epoch > step.epoch:
        return False
    calls = execution.plan.calls()
    path = execution.plan.first_of(ref.path)
    return (path, task, ref.direction) in ((at, call.task, way) for at, call, way in calls)


def preserve_headers(request: Any, options: dict[str, Any]) -> None:
    """Keep the engine's header in the message of a step's retry, and its masked arguments.

    Headers in a retry's options replace those of the request, and the displayed arguments would be
    made again from the arguments themselves, including secrets.
    """
    headers = options.get("headers") or {}
    if isinstance(headers, Mapping):
        options["headers"] = {**headers, HEADER: header_of(request)}
    for name in ("argsrepr", "kwargsrepr"):
        shown = getattr(request, name, None)
        if shown is not None:
            options.setdefault(name, shown)
