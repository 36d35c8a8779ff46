"""Contexts that have a model: what a task gets, and the check of what a step writes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

from celery_saga.core.context.data import Values, returned, values_of
from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.context.saga_context import SagaContext
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.execution import Direction, SagaExecution, StepRef
from celery_saga.core.plan import Call
from celery_saga.definition.contexts import annotated_model, known_model
from celery_saga.definition.tasks.declarations import function_of
from celery_saga.errors import ContextInvalid

log = logging.getLogger("celery_saga")


def argument_of(execution: SagaExecution, ref: StepRef, tasks: Mapping[str, Any]) -> Any:
    """Return what a task in context style gets: a SagaContext, or an instance of the model.

    Args:
        tasks: those of the app. The task is annotated with the model: a worker that has the task
            has the model too, also if it has not imported the saga.

    Raises:
        ContextInvalid: the context does not fit the model, or this worker does not have it.
    """
    context, call = SagaContext(), call_of(execution, ref.path, ref.direction)
    context.update(execution.view(ref.path))
    if not call.model:
        return context
    model = known_model(call.model) or annotated_model(call.model, function_of(tasks[call.task]))
    if model is None:
        raise ContextInvalid(call.model, _ABSENT)
    return model.instance(context)


def whole_context(call: Call, values: Values, result: Any) -> Any:
    """Return the whole context that follows from the result of a task in context style.

    An instance, and a mapping from a task that gets an instance, are about their own keys: the
    others stay. Any other mapping is the whole context.
    """
    model = known_model(call.model) if call.model else None
    if model is None:
        return result
    if isinstance(result, model.cls):
        return model.after(dict(values), result)
    return {**values, **result} if isinstance(result, Mapping) else result


def checked(
    execution: SagaExecution,
    ref: StepRef,
    update: Mapping[str, Any],
    removed: Collection[str],
    load: Callable[[], SagaExecution],
) -> Mapping[str, Any]:
    """Return what a step writes as the models of its sagas read it.

    Args:
        load: returns the whole execution, if only a part of it was read.

    Raises:
        ContextInvalid: it does not fit one of them.
    """
    models = execution.plan.models(ref.path)
    if not models or ref.direction is Direction.COMPENSATION or not (update or removed):
        return update
    try:
        before = dict(execution.view(ref.path))
    except NotLoaded:
        before = dict(load().view(ref.path))
    codec = values_of(execution.values).codec
    for name in models:
        model = known_model(name)
        if model is None:
            _warn_once(execution.name, name)
        else:
            update = returned(model.updated(before, update, removed), codec)
    return update


_ABSENT = (
    "this worker does not have that class, because it has not imported a saga with it: put the "
    "saga into sagas.py beside the tasks, or name its module in the app's include or imports"
)


@lru_cache(maxsize=256)
def _warn_once(saga: str, model: str) -> None:
    text = "saga %s: what its steps write is not validated against %s: %s"
    log.warning(text, saga, model, _ABSENT)
