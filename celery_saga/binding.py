"""What a task gets of the context: worked out once from its signature, when a plan is made.

Existing tasks get their parameters by name, context-style ones the whole context. A mistake is a
:class:`~celery_saga.errors.DefinitionError` that says what was expected and what was found.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_saga.context import SagaContext
from celery_saga.errors import DefinitionError
from celery_saga.plan import Input, Style

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Const:
    """A literal among ``inputs=``: the parameter gets ``value``, whatever the context holds."""

    value: Any


#: ``{"param": "key"}``, ``{"param": ("path", "to")}``, ``{"param": Const(v)}``, or a list of names.
Inputs = Mapping[str, Any] | Sequence[str]


def bind(
    step: str,
    task: str,
    function: Callable[..., Any] | None,
    *,
    plain: bool = False,
    context: bool | None = None,
    inputs: Inputs | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> tuple[Style, tuple[Input, ...]]:
    """Style and inputs of one task.

    Args:
        step: the step's name, for the text of errors.
        task: the task's name.
        function: the task's ``run``; ``None`` for a task that is known by name only.
        plain: a plain function, which always gets the whole context.
        context: the user's word on the style; ``None`` if there is none.
        inputs: the user's mapping.
        parameters: constants, sent as keyword arguments.

    Raises:
        DefinitionError: the task cannot be called that way.
    """
    where = f"step {step!r}, task {task!r}"
    constants = tuple(Input(name, const=value) for name, value in (parameters or {}).items())
    if function is None:
        return _bind_unseen(where, context, inputs, constants)
    params = list(inspect.signature(function).parameters.values())
    _check_parameters(where, params, parameters or {})
    if plain or context or (context is None and inputs is None and _wants_context(params)):
        return "context", _bind_context(where, params, inputs, constants)
    return "inputs", _bind_by_name(where, params, inputs) + constants


def _bind_unseen(
    where: str, context: bool | None, inputs: Inputs | None, constants: tuple[Input, ...]
) -> tuple[Style, tuple[Input, ...]]:
    if context:
        return "context", constants
    if inputs is None:
        raise DefinitionError(
            f"{where} is not registered in this process: give its parameters with inputs=[...], "
            f"or context=True if it takes the whole context"
        )
    named = inputs if isinstance(inputs, Mapping) else {name: name for name in inputs}
    return "inputs", tuple(_input(where, p, source) for p, source in named.items()) + constants


def _wants_context(params: list[inspect.Parameter]) -> bool:
    """Annotated SagaContext, or the only required parameter is named context or ctx."""
    if not params:
        return False
    annotation = params[0].annotation
    if annotation is SagaContext:
        return True
    if isinstance(annotation, str) and annotation.rpartition(".")[2] == "SagaContext":
        return True
    required = [p for p in params if p.default is p.empty and p.kind in _NAMED]
    return len(required) == 1 and required[0] is params[0] and params[0].name in ("context", "ctx")


def _bind_context(
    where: str,
    params: list[inspect.Parameter],
    inputs: Inputs | None,
    constants: tuple[Input, ...],
) -> tuple[Input, ...]:
    if inputs is not None:
        raise DefinitionError(f"{where} takes the whole context: inputs= has no meaning for it")
    if not params or params[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise DefinitionError(
            f"{where}: expected a function whose first parameter takes the context, "
            f"found ({', '.join(map(str, params))})"
        )
    given = {item.param for item in constants}
    for param in params[1:]:
        needed = param.default is param.empty and param.kind in _NAMED
        if needed and param.name not in given:
            raise DefinitionError(
                f"{where} takes the whole context as its first argument; nothing supplies its "
                f"parameter {param.name!r}: give it with parameters={{{param.name!r}: ...}}"
            )
    return constants


def _check_parameters(
    where: str, params: list[inspect.Parameter], parameters: Mapping[str, Any]
) -> None:
    names = {param.name for param in params if param.kind in _NAMED}
    open_ended = any(param.kind is param.VAR_KEYWORD for param in params)
    for name in parameters:
        if name not in names and not open_ended:
            raise DefinitionError(
                f"{where}: unknown option or parameter {name!r}; "
                f"its parameters are {sorted(names) or 'none'}"
            )


def _bind_by_name(
    where: str, params: list[inspect.Parameter], inputs: Inputs | None
) -> tuple[Input, ...]:
    if params and params[0].name == "self":
        raise DefinitionError(
            f"{where}: its first parameter is 'self', but the task is not bound; "
            f"declare it with @app.task(bind=True)"
        )
    for param in params:
        if param.kind is param.POSITIONAL_ONLY:
            raise DefinitionError(
                f"{where}: parameter {param.name!r} is positional-only, and a step's arguments "
                f"are sent by name; remove the '/' from its signature"
            )
    known = {param.name: param for param in params if param.kind in _NAMED}
    open_ended = any(param.kind is param.VAR_KEYWORD for param in params)
    for name in inputs or ():
        if name not in known and not open_ended:
            raise DefinitionError(
                f"{where}: inputs= names {name!r}, its parameters are {sorted(known) or 'none'}"
            )
    if inputs is None or isinstance(inputs, Mapping):
        sources = {name: name for name in known} | dict(inputs or {})
    else:
        sources = {name: name for name in inputs}
    _check_covered(where, known, sources)
    return tuple(_input(where, name, source, known.get(name)) for name, source in sources.items())


def _check_covered(
    where: str, known: Mapping[str, inspect.Parameter], sources: Mapping[str, Any]
) -> None:
    for name, param in known.items():
        if name not in sources and param.default is param.empty:
            raise DefinitionError(
                f"{where}: inputs= is a list and therefore complete, but it lacks the required "
                f"parameter {name!r}"
            )


def _input(where: str, name: str, source: Any, param: inspect.Parameter | None = None) -> Input:
    required = param is None or param.default is param.empty
    if isinstance(source, Const):
        return Input(name, const=source.value)
    if isinstance(source, str):
        return Input(name, (source,), required=required)
    if isinstance(source, tuple) and source and isinstance(source[0], str):
        return Input(name, source, required=required)
    raise DefinitionError(
        f"{where}: inputs[{name!r}]: expected a context key, a path such as ('customer', 'id') or "
        f"Const(value), found {source!r}"
    )
