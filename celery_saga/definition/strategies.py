"""Refuses task classes with a ``Strategy`` of their own as steps.

The strategy decides what a worker's consumer does with a task's message, before a pool process
gets it. A strategy that is not Celery's may keep messages, drop them or run them by itself. The
engine would only see that the step is not claimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from celery import Celery, Task
from celery.local import PromiseProxy
from celery.worker import strategy

from celery_saga.definition.builder import SagaDefinition
from celery_saga.definition.registry import Registry
from celery_saga.definition.steps import SagaStep
from celery_saga.definition.steps.tree import located
from celery_saga.definition.tasks.declarations import declaration_of
from celery_saga.errors import DefinitionError, SetupError

#: Celery's own strategy, as a task class names it.
_CELERYS_OWN = (Task.Strategy, strategy.default, "celery.worker.strategy.default")


def foreign_strategy(given: Any) -> str:
    """The ``Strategy`` of a task if it is not Celery's own; else empty."""
    given = getattr(given, "__func__", given)  # a function in a class is a method of its tasks
    if given is None or given in _CELERYS_OWN:
        return ""
    return str(getattr(given, "__qualname__", given))


def check_declared(steps: Iterable[SagaStep]) -> None:
    """Refuse steps that are known to have their own strategy, without making a lazy task.

    Raises:
        DefinitionError: a step has its own strategy.
    """
    for step in steps:
        for _, operation in step.operations():
            declared = declaration_of(operation.callback)
            if declared is not None:
                # Reading a lazy task's own name would make the task.
                task = str(getattr(declared.function, "__name__", "?"))
                check(step.options.get("name") or task, task, declared.option("Strategy"))


def check(step: str, task: str, given: Any) -> None:
    """Refuse a step whose task has a strategy of its own.

    Raises:
        DefinitionError: it has its own strategy.
    """
    if found := foreign_strategy(given):
        raise DefinitionError(f"step {step!r}: {_refusal(task, found)}")


def check_used(app: Celery, sagas: Registry[SagaDefinition]) -> None:
    """Refuse to start a worker of ``app`` whose committed sagas use such a task.

    Raises:
        SetupError: a saga uses one.
    """
    for saga in sagas.every():
        if saga._app not in (None, app):
            continue
        for task in _tasks_of(saga, app):
            if found := foreign_strategy(task.Strategy):
                raise SetupError(f"saga {saga.name!r}: {_refusal(task.name, found)}")


def _refusal(task: str, found: str) -> str:
    return (
        f"task {task!r} has a strategy of its own, and the engine would not see what happens to "
        f"its messages: expected {Task.Strategy!r} as Strategy of its class, found {found!r}; give "
        f"the step a task without one, which may call this one with .delay()"
    )


def _tasks_of(saga: SagaDefinition, app: Celery) -> Iterator[Any]:
    """The tasks of ``app`` that a saga uses. The app is finalized already."""
    for found in located(saga):
        for _, operation in found.step.operations():
            target: Any = operation.callback
            if type(target) is PromiseProxy and not target.__evaluated__():
                continue  # another app's
            name = target if isinstance(target, str) else getattr(target, "name", None)
            task = app.tasks.get(name) if isinstance(name, str) else None
            if task is not None and (isinstance(target, str) or target == task):
                yield task
