"""Makes the calls of a plan: names, signatures and options are looked up once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from celery import Celery, Task
from kombu.compression import get_encoder

from celery_saga.core.plan import Call, Style
from celery_saga.definition import functions
from celery_saga.definition.binding import bind, takes_instance, without_response
from celery_saga.definition.operations import SagaOperation
from celery_saga.definition.options import MESSAGE_OPTIONS
from celery_saga.definition.steps.tree import Located
from celery_saga.definition.strategies import check
from celery_saga.definition.tasks.declarations import (
    Declaration,
    accepts,
    drops_result,
    function_of,
)
from celery_saga.errors import DefinitionError


class Calls:
    """Looks up the tasks of one step.

    Args:
        app: the app that runs the saga.
        found: the step, with its place in the definition.
        step: its name in the plan.
    """

    def __init__(self, app: Celery, found: Located, step: str) -> None:
        self._app, self._found, self._step = app, found, step

    def of(
        self,
        operation: SagaOperation,
        role: str,
        on_lost: Any,
        max_attempts: int | None,
        response: bool = False,
    ) -> Call:
        """Make a call; ``on_lost`` is True, ``"rerun"``, ``"compensate"`` or unset.

        ``response``: its second argument is the response to a request.
        """
        name, task = self._task(operation, role)
        check(self._step, name, getattr(task, "Strategy", None))
        plain, options = functions.is_plain(operation.callback), operation.options
        function = self._function(operation.callback, task, name, response)
        model, late = self._found.step.saga.model, getattr(task, "acks_late", False)
        style, inputs = bind(
            self._step,
            name,
            function,
            plain=plain,
            context=response or options.get("context"),
            inputs=options.get("inputs"),
            parameters=operation.parameters,
            accepts=None if plain or task is None else partial(accepts, task),
            model=model.cls if model else None,
        )
        instance = style == "context" and model and takes_instance(function, model.cls)
        return Call(
            name,
            style,
            inputs,
            returns=self._returns(options.get("returns"), name, task, style),
            options=self._message_options(options),
            rerun=on_lost in (True, "rerun") or bool(on_lost is None and late),
            max_attempts=max_attempts,
            model=model.name_on(self._app.main) if model and instance else "",
            **_backoff(self._step, options),
        )

    def _function(self, target: Any, task: Any, name: str, response: bool) -> Any:
        """The function of a call, as it is bound; ``None``: only its task's name is known."""
        function = target if functions.is_plain(target) else task and function_of(task)
        if function is None or not response:
            return function
        return without_response(f"step {self._step!r}, task {name!r}", function)

    def _message_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Celery's own options of the message; one that is None is not set."""
        options = {key: given[key] for key in sorted(MESSAGE_OPTIONS) if given.get(key) is not None}
        try:
            get_encoder(options.get("compression", "gzip"))
        except KeyError:
            raise DefinitionError(
                f"step {self._step!r}: compression: expected one that kombu knows in this "
                f"process, such as 'gzip' or 'zlib', found {options['compression']!r}"
            ) from None
        return options

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
            raise DefinitionError(
                f"step {self._step!r}: expected a Celery task, a task's name or a function, found "
                f"{target!r}{_instead_of(target)}"
            )
        if target.name not in self._app.tasks:
            raise DefinitionError(
                f"step {self._step!r}: task {target.name!r} is not registered on app "
                f"{self._app.main!r}, which runs the saga: declare it with @app.task there"
            )
        return target.name, self._app.tasks[target.name]

    def _function_name(self, function: Any, role: str) -> str:
        name = self._found.callable_name(function, role)
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


def _instead_of(target: Any) -> str:
    """What to give in the place of another callable."""
    if isinstance(target, type):
        return "; give an object of it that the app has, app.register_task(...)"
    if isinstance(target, partial):
        return "; give the task or function itself, its constants go into parameters={...}"
    return "; a worker could not find it: call it in a task, or in a function of a module"


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
