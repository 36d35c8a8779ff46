"""The engine's own tasks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from celery import Celery
from celery.exceptions import Reject

from celery_saga.core.context.data import encoded
from celery_saga.core.context.masking import CONTEXT, masked
from celery_saga.core.decide.transitions import name_of_current
from celery_saga.core.execution import SagaStatus
from celery_saga.core.retry import retry_while_unavailable
from celery_saga.definition.builder import SagaDefinition
from celery_saga.errors import DefinitionError, SagaExecutionException, StoreUnavailable
from celery_saga.messaging.callbacks import collect_callbacks
from celery_saga.messaging.events import EndReportingRequest, started
from celery_saga.messaging.headers import STAMPS
from celery_saga.messaging.outcome import START, failure_of
from celery_saga.messaging.results import callbacks_of
from celery_saga.runtime import Runtime, runtime_of
from celery_saga.start import StartRequest, checked_id, context_values, start


def declare_tasks(app: Celery) -> None:
    """Make the engine's tasks tasks of the app."""
    declare: Any = app.task
    # The message may be taken twice: its id is the saga's, and an id is taken once.
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


def _sent_without_secrets(
    self: Any, args: Any = None, kwargs: Any = None, *more: Any, **options: Any
) -> Any:
    """``apply_async`` of the start task: what logs and Flower show has no values of a context.

    Celery would show the result before it in a chain, and what Flower's own API was given.
    """
    options.setdefault("argsrepr", f"({CONTEXT},)" if args else "()")
    if isinstance(kwargs, Mapping):
        hidden = {"context": CONTEXT} if "context" in kwargs else {}
        options.setdefault("kwargsrepr", repr({**masked(kwargs), **hidden}))
    return super(type(self), self).apply_async(args, kwargs, *more, **options)


def start_task(
    self: Any, *previous: Any, saga: str, context: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Start the saga of that name; the task's id becomes the saga's id, and its result the saga's.

    The task itself ends without a result of its own: what its request wants to be called back is
    done when the saga settles.

    Args:
        previous: the result before it in a canvas: a mapping, whose keys are added to the context,
            or None.
        saga: the saga's name.
        context: what it begins with.

    Returns:
        The final context, of an eager call.

    Raises:
        SagaAlreadyExists: another saga has this id, or one with another context.
    """
    runtime = runtime_of(self.app)
    asked = _asked(runtime, self.request, saga, previous, context)
    saga_id = str(asked.saga_id)
    if asked.eager:
        start(asked)
        return _finished(runtime, saga_id)
    try:
        retry_while_unavailable(partial(start, asked), runtime.orchestrator.store_timeout)
    except StoreUnavailable as error:
        raise Reject(error, requeue=True) from error
    raise started(saga_id)


def _asked(
    runtime: Runtime,
    request: Any,
    name: str,
    previous: tuple[Any, ...],
    context: Mapping[str, Any] | None,
) -> StartRequest:
    """The start that a message, or an eager call, asks for."""
    saga_id = checked_id(f"the task id, which is the id of the saga {name!r}", request.id)
    eager = bool(request.is_eager)
    definition = _find(runtime, name, eager)
    named = context_values(context)
    return StartRequest(
        runtime,
        runtime.plans.of(definition),
        encoded(_merged(name, previous, named), runtime.codec),
        saga_id,
        headers=_headers_of(request),
        callbacks=collect_callbacks(
            runtime.app, definition, None if eager else callbacks_of(request)
        ),
        ignore_result=request.ignore_result,
        # A result before it is not compared: the task that gave it may be delivered twice as well,
        # and answer otherwise, and it is the same link of the same chain.
        opened_with=encoded(named, runtime.codec),
        eager=eager,
    )


def _headers_of(request: Any) -> dict[str, Any]:
    return {name: getattr(request, name, None) for name in STAMPS} | dict(request.headers or {})


def _find(runtime: Runtime, name: Any, eager: bool) -> SagaDefinition:
    found = runtime.plans.definitions(name) if isinstance(name, str) else []
    if not found and eager:
        found = runtime.plans.definitions(name, importable=False)  # this process is all there is
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
    """The given context on top of the result before it."""
    if not previous or previous == (None,):
        return given
    if len(previous) == 1 and isinstance(previous[0], Mapping):
        return {**context_values(previous[0]), **given}
    kinds = ", ".join(type(each).__name__ for each in previous)
    raise SagaExecutionException(
        f"saga {name!r}: the result before it cannot be its context: expected a mapping or None, "
        f"found {kinds}; use .si() in place of .s() to leave that result out"
    )


def _finished(runtime: Runtime, saga_id: str) -> dict[str, Any]:
    execution = runtime.orchestrator.load(saga_id)
    if not execution.settled:
        task = name_of_current(execution)
        raise SagaExecutionException(
            f"saga {saga_id!r} cannot be run to its end in this process: step {task!r} was sent to "
            f"the broker, because its task is not declared here"
        )
    if execution.status is not SagaStatus.COMPLETED:
        raise failure_of(execution)
    return dict(execution.values)
