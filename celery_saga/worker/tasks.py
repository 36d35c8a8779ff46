"""The engine's own tasks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from celery import Celery
from celery.exceptions import Reject

from celery_saga.core.context.data import encoded
from celery_saga.core.context.masking import CONTEXT, masked
from celery_saga.core.decide.operators import awaited
from celery_saga.core.decide.transitions import name_of_current
from celery_saga.core.execution import SagaExecution, SagaStatus, StepRef
from celery_saga.core.retry import retry_while_unavailable
from celery_saga.definition.builder import SagaDefinition
from celery_saga.definition.contexts import beginning
from celery_saga.errors import DefinitionError, SagaExecutionException, StoreUnavailable
from celery_saga.messaging.callbacks import collect_callbacks
from celery_saga.messaging.events import EndReportingRequest, started
from celery_saga.messaging.headers import STAMPS
from celery_saga.messaging.message import REPLY
from celery_saga.messaging.outcome import START, failure_of
from celery_saga.messaging.results import callbacks_of
from celery_saga.runtime import Runtime, runtime_of
from celery_saga.start import StartRequest, checked_id, context_values, start
from celery_saga.worker.remote.replies import receive


def declare_tasks(app: Celery) -> None:
    """Declare the engine's tasks on the app."""
    declare: Any = app.task
    # The message may be delivered twice: its id is the saga's, and an id is used once.
    declare(
        start_task,
        bind=True,
        name=START,
        shared=False,
        acks_late=True,
        reject_on_worker_lost=True,
        serializer="json",
        apply_async=_sent_without_secrets,
        Request=EndReportingRequest("celery.worker.request:Request"),
    )
    declare(
        reply_task,
        bind=True,
        name=REPLY,
        shared=False,
        acks_late=True,
        reject_on_worker_lost=True,
        ignore_result=True,
    )


def reply_task(
    self: Any, outcome: Any = None, *, saga_id: str, ref: str, token: str, failed: bool = False
) -> None:
    """Take the reply to a request of a remote step: the link callback of another service's task.

    More positional parameters would make Celery call it inside of the other service's worker.

    Args:
        outcome: what that task returned; of one that failed, its id.
        failed: whether it failed.
    """
    runtime = runtime_of(self.app)
    try:
        receive(runtime, saga_id, StepRef.of(ref), token, outcome, failed)
    except StoreUnavailable as error:
        raise Reject(error, requeue=True) from error


def _sent_without_secrets(
    self: Any, args: Any = None, kwargs: Any = None, *more: Any, **options: Any
) -> Any:
    """``apply_async`` of the start task; logs and Flower get no values of a context.

    Without it Celery would show the previous result of a chain, and arguments of Flower's own API.
    """
    options.setdefault("argsrepr", f"({CONTEXT},)" if args else "()")
    if isinstance(kwargs, Mapping):
        hidden = {"context": CONTEXT} if "context" in kwargs else {}
        options.setdefault("kwargsrepr", repr({**masked(kwargs), **hidden}))
    return super(type(self), self).apply_async(args, kwargs, *more, **options)


def start_task(
    self: Any, *previous: Any, saga: str, context: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Start the saga of that name; the task's id and result become those of the saga.

    The task itself ends without a result of its own. The callbacks of its request are called when
    the saga settles.

    Args:
        previous: the result of the previous task of a canvas: a mapping, whose keys are added to
            the context, or None.
        saga: the saga's name.
        context: the values that it begins with.

    Returns:
        The final context of an eager call.

    Raises:
        SagaAlreadyExists: another saga has this id, or one with another context.
    """
    runtime = runtime_of(self.app)
    request = _start_request(runtime, self.request, saga, previous, context)
    saga_id = str(request.saga_id)
    if request.eager:
        start(request)
        return _finished(runtime, saga_id)
    try:
        retry_while_unavailable(partial(start, request), runtime.orchestrator.store_timeout)
    except StoreUnavailable as error:
        raise Reject(error, requeue=True) from error
    raise started(saga_id)


def _start_request(
    runtime: Runtime,
    request: Any,
    name: str,
    previous: tuple[Any, ...],
    context: Mapping[str, Any] | None,
) -> StartRequest:
    """Make the start request of a message or an eager call."""
    saga_id = checked_id(f"the task id, which is the id of the saga {name!r}", request.id)
    eager = bool(request.is_eager)
    definition = _find(runtime, name, eager)
    named = context_values(context)
    merged = _merged(name, previous, named)
    begins = beginning(definition.model, merged, context_values, runtime.codec)
    return StartRequest(
        runtime,
        runtime.plans.of(definition),
        begins["context"],
        saga_id,
        headers=_headers_of(request),
        callbacks=collect_callbacks(
            runtime.app, definition, None if eager else callbacks_of(request)
        ),
        ignore_result=request.ignore_result,
        # A previous result is not compared: its task may be delivered twice too, with another
        # result, and it is still the same link of the same chain.
        opened_with=encoded(named, runtime.codec),
        eager=eager,
    )


def _headers_of(request: Any) -> dict[str, Any]:
    return {name: getattr(request, name, None) for name in STAMPS} | dict(request.headers or {})


def _find(runtime: Runtime, name: Any, eager: bool) -> SagaDefinition:
    found = runtime.plans.definitions(name) if isinstance(name, str) else []
    if not found and eager:
        found = runtime.plans.definitions(name, importable=False)  # no other process runs it
    if len(found) > 1:
        raise DefinitionError(
            f"{len(found)} different sagas are named {name!r}: give each a name of its own"
        )
    if not found:
        raise DefinitionError(
            f"no saga named {name!r} is known here: commit it while a module is imported that this "
            f"worker imports, such as sagas.py beside the tasks, or name its module in the app's "
            f"'include' or 'imports'"
        )
    return found[0]


def _merged(name: str, previous: tuple[Any, ...], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The given context added to the previous result."""
    if not previous or previous == (None,):
        return given
    if len(previous) == 1 and isinstance(previous[0], Mapping):
        return {**context_values(previous[0]), **given}
    kinds = ", ".join(type(each).__name__ for each in previous)
    raise SagaExecutionException(
        f"saga {name!r}: the previous result cannot be its context: expected a mapping or "
        f"None, found {kinds}; use .si() in place of .s() to ignore that result"
    )


def _finished(runtime: Runtime, saga_id: str) -> dict[str, Any]:
    execution = runtime.orchestrator.load(saga_id)
    if not execution.settled:
        raise SagaExecutionException(
            f"saga {saga_id!r} cannot be run to its end in this call: {_what_is_missing(execution)}"
        )
    if execution.status is not SagaStatus.COMPLETED:
        raise failure_of(execution)
    return dict(execution.view(()))


def _what_is_missing(execution: SagaExecution) -> str:
    """Why an eager saga has not ended, and what to do."""
    signals = [repr(name) for _, name in awaited(execution)]
    if signals:
        return (
            f"it waits for the signal {' and '.join(signals)}, which SagaManager.signal() sends; "
            f"that call continues the saga, but not what follows it in the canvas: start the saga "
            f"by itself with delay(), or the canvas on workers with apply_async()"
        )
    if execution.status is SagaStatus.PAUSED:
        return "it is paused; SagaManager.resume() continues it, but not what follows it"
    name = name_of_current(execution)
    return f"step {name!r} was sent to the broker, because its task is not declared here"
