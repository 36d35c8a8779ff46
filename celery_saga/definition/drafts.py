"""Drafts of a saga's plan, as far as it is known when the saga is committed.

While modules are imported, neither tasks nor the configuration may be touched. What is not known is
left out, and checked when the plan is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

from celery import Celery

from celery_saga.core.plan import Call, PlanStep, RemoteStep
from celery_saga.definition import functions
from celery_saga.definition.binding import UnknownParameters, bind
from celery_saga.definition.contexts import ContextModel
from celery_saga.definition.operations import SagaOperation
from celery_saga.definition.steps import LocalSagaStep, RemoteSagaStep, SagaStep, StepOwner
from celery_saga.definition.steps.tree import names_of, own_steps, result_keys
from celery_saga.definition.tasks.declarations import (
    Declaration,
    declaration_of,
    drops_result,
)
from celery_saga.errors import DefinitionError, UnserializableValue


def draft(saga: StepOwner, app: Celery | None) -> list[PlanStep | None]:
    """Return its local steps in the plan; ``None`` for one of which too little is known.

    Args:
        saga: the saga; of its steps those in its branches are meant too.
        app: the app whose settings apply to tasks that do not name their app, if it is known.
    """
    steps = own_steps(saga)
    labels = [_label(step) for step in steps]
    names, keys = names_of(steps, labels), result_keys(saga, steps, labels)
    named = zip(steps, names, strict=True)
    return [
        _draft_step(step, name, keys[id(step)], app)
        for step, name in named
        if isinstance(step, LocalSagaStep)
    ]


def _label(step: SagaStep) -> str:
    """The same as :attr:`LocalSagaStep.name`, without making a lazy task."""
    target = step.action.callback if isinstance(step, LocalSagaStep) and step.action else None
    declared = declaration_of(target)
    if step.options.get("name") or declared is None:
        return step.name
    named = declared.options.get("name") or getattr(declared.function, "__name__", "")
    return str(named).rpartition(".")[2]


def check_known(steps: Sequence[SagaStep]) -> None:
    """Refuse steps whose parameters are already known to be unknowable.

    Raises:
        DefinitionError: a step takes any arguments, and has no ``inputs=``.
    """
    for step in steps:
        for _, operation in step.operations():
            _draft_call(_label(step), operation, None, None, step.saga.model)


def _draft_step(step: LocalSagaStep, name: str, key: str, app: Celery | None) -> PlanStep | None:
    assert step.action is not None
    read_only, remote = bool(step.options.get("read_only")), isinstance(step, RemoteSagaStep)
    model = step.saga.model
    on_lost = read_only or remote or step.options.get("on_lost")
    action = _draft_call(name, step.action, on_lost, app, model)
    if action is None:
        return None
    given = step.compensation
    compensation = None if given is None else _draft_call(name, given, True, app, model)
    if compensation is None and given is not None:
        compensation = Call(given.label if functions.is_plain(given.callback) else "", "context")
    pivot = bool(step.options.get("pivot"))
    kind = RemoteStep if remote else PlanStep
    return kind(name, action, compensation, pivot=pivot, read_only=read_only, result_key=key)


def _draft_call(
    step: str,
    operation: SagaOperation,
    on_lost: Any,
    app: Celery | None,
    model: ContextModel | None,
) -> Call | None:
    target, options = operation.callback, operation.options
    plain = functions.is_plain(target)
    declared = Declaration(target) if plain else declaration_of(target)
    if declared is None:
        return None
    function = declared.function
    if declared.bind and declared.task is None:
        function = MethodType(function, target)  # no caller passes the task itself
    name = declared.options.get("name") or getattr(declared.function, "__name__", "a function")
    task = declared.task.name if declared.task is not None else str(name)
    try:
        style, inputs = bind(
            step,
            task,
            function,
            plain=plain,
            context=options.get("context"),
            inputs=options.get("inputs"),
            parameters=operation.parameters,
            model=model.cls if model else None,
        )
    except UnknownParameters:
        raise
    except (DefinitionError, UnserializableValue, TypeError, ValueError):
        return None  # reported when the plan is made
    late = _acks_late(declared, app)
    # A setting that is not known gives no warning.
    rerun = on_lost in (True, "rerun") or (on_lost is None and late is not False)
    returns = options.get("returns")
    if returns is None and style == "inputs" and drops_result(declared):
        returns = False
    return Call(task, style, inputs, returns=returns, rerun=rerun)


def _acks_late(declared: Declaration, app: Celery | None) -> bool | None:
    given = declared.option("acks_late")
    if given is not None:
        return bool(given)
    app = declared.app or app
    return None if app is None else _configured(app, "task_acks_late")


def _configured(app: Celery, key: str) -> bool | None:
    """A setting that is off by default; never loads a configuration that is not loaded yet."""
    if getattr(app, "configured", False):
        return bool(app.conf[key])
    open_ended = getattr(app, "_config_source", True) is not None or key in app.conf
    return None if open_ended else False
