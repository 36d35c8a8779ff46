"""Makes the requests of remote steps, and the responses that their handlers get."""

from __future__ import annotations

import inspect
import secrets
from typing import Any

from celery import Celery

from celery_saga.core.context.codec import Codec
from celery_saga.core.execution import SagaExecution, StepRef
from celery_saga.core.plan import Call
from celery_saga.core.remote import SagaRequest, SagaResponse
from celery_saga.core.state import Request
from celery_saga.errors import BadStepResult, UnknownTarget
from celery_saga.messaging.routing import queue_of
from celery_saga.runtime import Runtime

#: Attribute of a task's function: whether it calls a coroutine function.
ASYNCHRONOUS = "_celery_saga_async"


def new_request(runtime: Runtime, step: str, task: str, result: Any) -> Request:
    """Make the request that a step's task has returned.

    Raises:
        BadStepResult: it returned something else than a :class:`SagaRequest`.
        UnknownTarget: neither a setting nor a route has the target.
        UnserializableValue: its content is not JSON-serializable.
    """
    if not isinstance(result, SagaRequest):
        found = f"{type(result).__name__} from task {task!r}"
        raise BadStepResult(step, "a SagaRequest(target, content)", found)
    name, queue = _resolved(runtime, result.target)
    message = {
        "target": result.target,
        "task": name,
        "args": [_text(runtime.codec, value) for value in result.args],
        "kwargs": {name: _text(runtime.codec, it) for name, it in result.kwargs.items()},
        "options": {"queue": queue} if queue else {},
    }
    return Request(secrets.token_urlsafe(16), message)


def _text(codec: Codec, content: Any) -> str:
    return codec.dumps(content, "the content of the SagaRequest")


def _resolved(runtime: Runtime, target: str) -> tuple[str, str]:
    """The task's name, and the queue if a setting has it.

    A name without a dot that nothing explains is a service's name rather than a task's.
    """
    targets, app = runtime.settings.targets or {}, runtime.app
    if target in targets:
        return targets[target]
    routed = queue_of(app, Call(target)) != app.conf.task_default_queue
    if "." not in target and target not in app.tasks and not routed:
        raise UnknownTarget(target, ", ".join(sorted(targets)))
    return target, ""


def response_for(
    runtime: Runtime, execution: SagaExecution, ref: StepRef, call: Call
) -> SagaResponse:
    """Make the response for the handler of a reply."""
    request = execution.steps[ref.path].request
    reply = {} if request is None else dict(request.reply or {})
    response = SagaResponse(
        runtime.codec.loads(reply["content"]),
        reply["related_services"],
        reply["status"],
        execution.uuid,
    )
    return response._for_async() if _is_asynchronous(runtime.app, call.task) else response


def _is_asynchronous(app: Celery, name: str) -> bool:
    task: Any = app.tasks.get(name)
    run: Any = getattr(task, "run", None)
    marked = getattr(run, ASYNCHRONOUS, None)
    return inspect.iscoroutinefunction(inspect.unwrap(run)) if marked is None else marked


def raised(result: Any) -> Any:
    """Return a handler's result, or raise the exception that it returned."""
    if isinstance(result, Exception):
        raise result
    return result
