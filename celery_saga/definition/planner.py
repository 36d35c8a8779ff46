"""Makes a plan from a definition and an app: names, signatures and options are looked up once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery, Task
from celery.local import PromiseProxy, Proxy

from celery_saga.core.failures import class_name
from celery_saga.core.plan import Call, Plan, PlanStep, Style
from celery_saga.definition import functions
from celery_saga.definition.advice import warn_of
from celery_saga.definition.binding import bind
from celery_saga.definition.builder import SAGAS, SagaDefinition, check_steps
from celery_saga.definition.operations import MESSAGE_OPTIONS, SagaOperation, declared_targets
from celery_saga.definition.steps import LocalSagaStep, names_of
from celery_saga.definition.strategies import check
from celery_saga.definition.tasks.declarations import (
    Declaration,
    accepts,
    drops_result,
    function_of,
    same_task,
)
from celery_saga.definition.tasks.routes import filled
from celery_saga.errors import DefinitionError
from celery_saga.settings import Settings


class Plans:
    """The plans of one app, each made once because a committed saga cannot change.

    Args:
        app: the Celery app whose tasks, routes and settings are read.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._made: WeakKeyDictionary[SagaDefinition, dict[Any, Plan]] = WeakKeyDictionary()

    def of(self, definition: SagaDefinition, **options: Any) -> Plan:
        """Return the plan of a definition.

        Args:
            options: ``queue`` and ``priority`` of this run, for all steps that name none.

        Raises:
            DefinitionError: the saga cannot run; the text says what to change.
        """
        made = self._made.setdefault(definition, {})
        key = tuple(sorted(options.items()))
        if () not in made:
            made[()] = build_plan(definition, self._app)
        if key not in made:
            made[key] = made[()].with_calls(lambda call: filled(self._app, call, options))
        return made[key]

    def definitions(self, name: str, importable: bool = True) -> list[SagaDefinition]:
        """The different committed sagas of that name; ``importable``: only those of all workers."""
        found = {self.of(each).hash: each for each in SAGAS.named(name, importable)}
        return list(found.values())


def build_plan(definition: SagaDefinition, app: Celery) -> Plan:
    """Make the plan by which ``app`` runs ``definition``.

    Raises:
        DefinitionError: the saga cannot run; the text says what to change.
    """
    definition.validate()
    given = [step for step in definition.steps if isinstance(step, LocalSagaStep)]
    steps = [step.completed(partial(_declared_as, app)) for step in given]
    check_steps(definition.name, steps)
    names = names_of(steps, [step.name for step in steps])
    pivot = next((i for i, step in enumerate(steps) if step.options.get("pivot")), len(steps))
    built = tuple(
        _plan_step(definition, app, index, step, names[index], after_pivot=index > pivot)
        for index, step in enumerate(steps)
    )
    warn_of(definition, built)
    settings = Settings.of(app)
    return Plan(
        definition.name,
        built,
        max_redeliveries=settings.max_redeliveries,
        unknown_task_grace=settings.unknown_task_grace,
        on_compensation_failure=definition.on_compensation_failure,
    )


def _declared_as(app: Celery, target: Any) -> Any:
    """The object that ``@saga_step`` decorated, for a task given by name or as the app has it."""
    if functions.is_plain(target) or type(target) in (Proxy, PromiseProxy):
        return None
    task = app.tasks.get(target) if isinstance(target, str) else target
    if not isinstance(task, Task):
        return None
    return next((one for one in declared_targets() if same_task(one, task)), task)


def _plan_step(
    definition: SagaDefinition,
    app: Celery,
    index: int,
    step: LocalSagaStep,
    name: str,
    *,
    after_pivot: bool,
) -> PlanStep:
    assert step.action is not None
    options = step.options
    target = _Target(definition, app, index, name)
    attempts: int | None = 1
    read_only = bool(options.get("read_only"))
    if after_pivot or options.get("retriable"):
        attempts = step.action.options.get("max_attempts")
    compensation = None
    if step.compensation is not None:
        limit = Settings.of(app).compensation_max_attempts
        compensation_attempts = step.compensation.options.get("max_attempts", limit)
        compensation = target.call(step.compensation, "compensation", True, compensation_attempts)
        given = {key: step.action.options.get(key) for key in ("queue", "priority")}
        given = {key: value for key, value in given.items() if value is not None}
        compensation = filled(app, compensation, given)
    return PlanStep(
        name,
        target.call(step.action, "action", read_only or options.get("on_lost"), attempts),
        compensation,
        pivot=bool(options.get("pivot")),
        compensate_on_failure=_class_names(name, app, options.get("compensate_on_failure", False)),
        read_only=read_only,
        on_exhausted=options.get("on_exhausted") or "compensate",
    )


def _class_names(step: str, app: Celery, given: Any) -> bool | tuple[str, ...]:
    if isinstance(given, bool):
        return given
    classes = given if isinstance(given, (list, tuple)) else (given,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise DefinitionError(
                f"step {step!r}: compensate_on_failure: expected True, False or exception classes, "
                f"found {cls!r}"
            )
    names: list[str] = []
    for cls in classes:
        names.append(class_name(cls))
        if cls.__module__ == "__main__" and app.main:
            # A worker imports the script under the name that Celery gives its tasks.
            names.append(f"{app.main}.{cls.__qualname__}")
    return tuple(names)


class _Target:
    """Looks up the tasks of one step."""

    def __init__(self, definition: SagaDefinition, app: Celery, index: int, step: str) -> None:
        self._definition, self._app, self._index, self._step = definition, app, index, step

    def call(
        self, operation: SagaOperation, role: str, on_lost: Any, max_attempts: int | None
    ) -> Call:
        """Make the call of ``operation``; ``on_lost`` is True, ``"rerun"``, ``"undo"`` or unset."""
        name, task = self._task(operation, role)
        check(self._step, name, getattr(task, "Strategy", None))
        plain = functions.is_plain(operation.callback)
        options = dict(operation.options)
        function = operation.callback if plain else None if task is None else function_of(task)
        style, inputs = bind(
            self._step,
            name,
            function,
            plain=plain,
            context=options.get("context"),
            inputs=options.get("inputs"),
            parameters=operation.parameters,
            accepts=None if plain or task is None else partial(accepts, task),
        )
        late = bool(getattr(task, "acks_late", False))
        return Call(
            name,
            style,
            inputs,
            returns=self._returns(options.get("returns"), name, task, style),
            options={key: options[key] for key in sorted(MESSAGE_OPTIONS & options.keys())},
            rerun=on_lost in (True, "rerun") or (on_lost is None and late),
            max_attempts=max_attempts,
            **_backoff(self._step, options),
        )

    def _returns(
        self, given: Any, name: str, task: Task[Any, Any] | None, style: Style
    ) -> str | bool | None:
        if style == "context" and given is not None:
            raise DefinitionError(
                f"step {self._step!r}, task {name!r} takes the whole context and what it returns "
                f"becomes the context: expected no returns=, found {given!r}"
            )
        if given is None and style == "inputs" and task is not None:
            return False if drops_result(Declaration(task.run, task=task)) else None
        if given is None or given is False or (isinstance(given, str) and given):
            return given
        raise DefinitionError(
            f"step {self._step!r}: returns: expected a context key or False, found {given!r}"
        )

    def _task(self, operation: SagaOperation, role: str) -> tuple[str, Task[Any, Any] | None]:
        target = operation.callback
        if functions.is_plain(target):
            name = self._function_name(target, role)
            return name, self._app.tasks.get(name)
        if isinstance(target, str) and target.strip():
            return target, self._app.tasks.get(target)
        if not isinstance(target, Task):
            hint = "; its constants go into parameters={...}" if callable(target) else ""
            raise DefinitionError(
                f"step {self._step!r}: expected a Celery task, a task's name or a function, found "
                f"{target!r}{hint}"
            )
        if target.name not in self._app.tasks:
            raise DefinitionError(
                f"step {self._step!r}: task {target.name!r} is not registered on app "
                f"{self._app.main!r}, which runs the saga: declare it with @app.task there"
            )
        return target.name, self._app.tasks[target.name]

    def _function_name(self, function: Any, role: str) -> str:
        name = self._definition.callable_name(function, self._index, role)
        if name is None:
            raise DefinitionError(
                f"step {self._step!r}: a lambda or nested function of a saga without a name cannot "
                f"be found by a worker: name the saga, Saga('...'), or define the function at the "
                f"top level of a module"
            )
        known = functions.known(name)
        if known is not None and not functions.same(known, function):
            raise DefinitionError(
                f"step {self._step!r}: a worker runs another function under the name {name!r}, one "
                f"with other code or other captured values: give the saga or the step another name"
            )
        if known is None:
            raise DefinitionError(
                f"step {self._step!r}: a worker could not find {name!r}: commit a saga that uses "
                f"it where its module is imported, put @saga_step above it, or call "
                f"manager.register() at import"
            )
        return functions.task_name(name, self._app.main)


def _backoff(step: str, options: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option, name in (("retry_backoff", "backoff"), ("retry_backoff_max", "backoff_max")):
        value = options.get(option)
        if value is None:
            continue
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise DefinitionError(f"step {step!r}: {option}: expected seconds, found {value!r}")
        found[name] = float(value)
    return found
