"""Binds a task to the context: works out once, from its signature, what each step is called with.

An existing task gets its parameters by name, a context-style task gets the whole context. A mistake
raises :class:`~celery_saga.errors.DefinitionError`, which says what was expected and found.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_saga.core.context.codec import JSON
from celery_saga.core.context.saga_context import SagaContext
from celery_saga.core.plan import Input, Style
from celery_saga.definition.tasks.signatures import parameters_of, unknown
from celery_saga.errors import DefinitionError

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


#: The source text of an annotation that names a mapping.
_MAPPING = re.compile(r"[\w.]*(Context|Mapping|[Dd]ict)\b")


@dataclass(frozen=True)
class Const:
    """A literal among ``inputs=``: the parameter gets ``value``, whatever the context holds."""

    value: Any


class UnknownParameters(DefinitionError):
    """It is not known which parameters a task takes."""


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
    accepts: Callable[[Collection[str]], bool] | None = None,
    model: type[Any] | None = None,
) -> tuple[Style, tuple[Input, ...]]:
    """Return the style and the inputs of one task.

    Args:
        function: the task's ``run``; ``None``: only the name of the task is known.
        plain: a plain function, which always gets the whole context.
        context, inputs, parameters: the user's options: style, mapping, constants sent by name.
        accepts: Celery's own check; a list of inputs that it accepts replaces the signature.
        model: the class of the saga's context; a task annotated with it gets the whole context.

    Raises:
        DefinitionError: the task cannot be called that way, or its parameters are not known.
        UnserializableValue: a constant is not JSON-serializable.
    """
    where, given = f"step {step!r}, task {task!r}", frozenset(parameters or ())
    _check_style(where, plain, context)
    constants = tuple(_constant(where, name, value) for name, value in (parameters or {}).items())
    sources = _sources(where, inputs, given)
    names, complete = {*(sources or {}), *given}, not isinstance(inputs, Mapping | None)
    accepted = names if complete and accepts and accepts(names) else None
    params = parameters_of(function) if function is not None else None
    if params is not None:
        _check_parameters(where, params, given, plain, accepted)
    if plain or context or (context is None and _wants_context(params or [], sources, model)):
        return "context", _bind_context(where, params, sources, constants)
    _check_known(where, function, params, sources)
    if params is not None and accepted is None:
        sources = _by_name(where, params, sources or {}, given, complete)
    return "inputs", _inputs(where, params or [], sources or {}) + constants


def check_function(
    where: str, function: Callable[..., Any], context: Any, model: type[Any] | None = None
) -> None:
    """Refuse a plain function whose first parameter does not look like the whole context.

    Args:
        where: how the error names the function.
        context: the user's option ``context=``; ``None`` if it was not set.
        model: the class of the saga's context.

    Raises:
        DefinitionError: it names the two ways to fix the definition.
    """
    if context or function.__name__ == "<lambda>":
        return
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None or first.kind not in (*_NAMED[:1], first.POSITIONAL_ONLY):
        return  # bind() reports what is wrong with it
    if _names(first.annotation, model):
        return
    name = first.name.lower()
    if len(name) == 1 or name.endswith(("context", "ctx")) or _is_mapping(first.annotation):
        return
    raise DefinitionError(
        f"{where}: the plain function {function.__name__!r} gets the whole context, and its "
        f"parameter {first.name!r} does not look like one. If it takes the context, annotate the "
        f"parameter with SagaContext (or name it context, or say context=True); if it takes "
        f"{first.name!r} out of the context, make it a task with @app.task"
    )


def _is_mapping(annotation: Any) -> bool:
    if isinstance(annotation, type):
        return annotation is not inspect.Parameter.empty and issubclass(annotation, Mapping)
    text = annotation.strip("'\" ") if isinstance(annotation, str) else repr(annotation)
    return "SagaContext" in text or _MAPPING.match(text) is not None


def _check_style(where: str, plain: bool, context: Any) -> None:
    if context not in (None, True, False):
        raise DefinitionError(f"{where}: context: expected True or False, found {context!r}")
    if plain and context is False:
        raise DefinitionError(
            f"{where} is a plain function, which always gets the whole context: found context=False"
        )


def _sources(where: str, inputs: Inputs | None, given: frozenset[str]) -> Mapping[str, Any] | None:
    """Return ``inputs`` as a mapping."""
    if inputs is None:
        return None
    if isinstance(inputs, (str, bytes)) or not isinstance(inputs, (Mapping, Sequence)):
        raise DefinitionError(
            f"{where}: inputs=: expected a mapping or a list of parameters, found {inputs!r}"
        )
    for name in inputs:
        if not isinstance(name, str):
            raise DefinitionError(f"{where}: inputs=: expected names of parameters, found {name!r}")
        if name in given:
            raise DefinitionError(
                f"{where}: expected one source for {name!r}, found it in inputs= and in parameters="
            )
    return inputs if isinstance(inputs, Mapping) else {name: name for name in inputs}


def _check_parameters(
    where: str,
    params: list[inspect.Parameter],
    given: frozenset[str],
    plain: bool,
    accepted: set[str] | None,
) -> None:
    """Refuse parameters that a step cannot supply; ``accepted``: all names, checked by Celery."""
    if not plain and params and params[0].name == "self" and "self" not in (accepted or ()):
        raise DefinitionError(
            f"{where}: its first parameter is 'self', but the task is not bound; "
            f"declare it with @app.task(bind=True)"
        )
    for number, param in enumerate(params):
        if param.kind is param.POSITIONAL_ONLY:
            needed = param.default is param.empty and (number > 0 or accepted is not None)
            if needed or param.name in (accepted or ()):
                raise _positional_only(where, param)
    open_ended = any(param.kind is param.VAR_KEYWORD for param in params)
    names = {param.name for param in params if param.kind in _NAMED}
    for name in given if accepted is None else ():
        if name not in names and not open_ended:
            raise DefinitionError(
                f"{where}: unknown option or parameter {name!r}; "
                f"its parameters are {sorted(names) or 'none'}"
            )


def _positional_only(where: str, param: inspect.Parameter) -> DefinitionError:
    return DefinitionError(
        f"{where}: parameter {param.name!r} is positional-only, and a step's arguments are sent by "
        f"name; remove the '/' from its signature, or have its decorator take **kwargs"
    )


def _check_known(
    where: str,
    function: Callable[..., Any] | None,
    params: list[inspect.Parameter] | None,
    sources: Mapping[str, Any] | None,
) -> None:
    if sources is not None:
        return
    if function is None:
        raise DefinitionError(
            f"{where} is not registered in this process: give its parameters with inputs=[...], "
            f"or context=True if it takes the whole context"
        )
    if unknown(params):
        raise UnknownParameters(
            f"{where}: its parameters are not known, because it takes any arguments (perhaps "
            f"under a decorator without functools.wraps): give inputs=[...], the names of all that "
            f"it is to be called with, or context=True if it takes the whole context"
        )


def _wants_context(
    params: list[inspect.Parameter], sources: Mapping[str, Any] | None, model: type[Any] | None
) -> bool:
    """Whether it is annotated with a context's class, or requires only ``context`` or ``ctx``."""
    if not params:
        return False
    if any(_names(params[0].annotation, each) for each in (SagaContext, model)):
        return True
    kinds = (*_NAMED, inspect.Parameter.POSITIONAL_ONLY)
    required = [param for param in params if param.default is param.empty and param.kind in kinds]
    return sources is None and required == params[:1] and params[0].name in ("context", "ctx")


def without_response(where: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the parameters of a handler, without that of the response.

    Raises:
        DefinitionError: it does not take the context and a response by position.
    """
    params = parameters_of(function) or []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [param for param in params if param.kind in kinds][:2]
    if len(taken) < 2 and not any(param.kind is param.VAR_POSITIONAL for param in params):
        raise DefinitionError(
            f"{where}: expected a function of two arguments, (context, response), found "
            f"{inspect.Signature(params)}"
        )

    def handler() -> None:
        pass

    rest = [param for param in params if param not in taken[1:]]
    handler.__signature__ = inspect.Signature(rest)  # type: ignore[attr-defined]
    return handler


def _names(annotation: Any, cls: type[Any] | None) -> bool:
    """Whether an annotation, or its source text, is that class."""
    if cls is None or not isinstance(annotation, str):
        return cls is not None and annotation is cls
    return annotation.strip("'\" ").rpartition(".")[2] == cls.__name__


def takes_instance(function: Callable[..., Any] | None, model: type[Any]) -> bool:
    """Whether the first parameter of a function is annotated with the class of a context."""
    params = (parameters_of(function) if function is not None else None) or []
    return any(_names(param.annotation, model) for param in params[:1])


def _bind_context(
    where: str,
    params: list[inspect.Parameter] | None,
    sources: Mapping[str, Any] | None,
    constants: tuple[Input, ...],
) -> tuple[Input, ...]:
    if sources is not None:
        raise DefinitionError(f"{where} takes the whole context: inputs= has no meaning for it")
    if params is None:
        return constants
    if not params or params[0].kind in (params[0].KEYWORD_ONLY, params[0].VAR_KEYWORD):
        raise DefinitionError(
            f"{where}: expected a function whose first parameter takes the context, "
            f"found {inspect.Signature(params)}"
        )
    given = {item.param for item in constants}
    if params[0].kind in _NAMED and params[0].name in given:
        raise DefinitionError(
            f"{where}: its first parameter {params[0].name!r} takes the whole context; "
            f"found a constant for it in parameters="
        )
    for param in params[1:]:
        needed = param.default is param.empty and param.kind in _NAMED
        if needed and param.name not in given:
            raise DefinitionError(
                f"{where} takes the whole context as its first argument; nothing supplies its "
                f"parameter {param.name!r}: give it with parameters={{{param.name!r}: ...}}"
            )
    return constants


def _by_name(
    where: str,
    params: list[inspect.Parameter],
    sources: Mapping[str, Any],
    given: frozenset[str],
    complete: bool,
) -> Mapping[str, Any]:
    """Return the sources of all parameters of the signature."""
    for param in params:
        if param.kind is param.POSITIONAL_ONLY:
            raise _positional_only(where, param)
    known = {param.name: param for param in params if param.kind in _NAMED}
    open_ended = any(param.kind is param.VAR_KEYWORD for param in params)
    for name in sources:
        if name not in known and not open_ended:
            raise DefinitionError(
                f"{where}: inputs= names {name!r}, its parameters are {sorted(known) or 'none'}"
            )
    if not complete:
        sources = {name: name for name in known if name not in given} | dict(sources)
    for name, param in known.items():
        if name not in sources and name not in given and param.default is param.empty:
            raise DefinitionError(
                f"{where}: inputs= is a list and therefore complete, but it lacks the required "
                f"parameter {name!r}"
            )
    return sources


def _inputs(
    where: str, params: list[inspect.Parameter], sources: Mapping[str, Any]
) -> tuple[Input, ...]:
    known = {param.name: param for param in params if param.kind in _NAMED}
    return tuple(_input(where, name, source, known.get(name)) for name, source in sources.items())


def _input(where: str, name: str, source: Any, param: inspect.Parameter | None = None) -> Input:
    required = param is None or param.default is param.empty
    if isinstance(source, Const):
        return _constant(where, name, source.value)
    if isinstance(source, str):
        return Input(name, (source,), required=required)
    if (
        isinstance(source, tuple)
        and isinstance(next(iter(source), None), str)
        and all(type(key) in (str, int) for key in source)
    ):
        return Input(name, source, required=required)
    raise DefinitionError(
        f"{where}: inputs[{name!r}]: expected a context key, a path such as ('customer', 'id') or "
        f"Const(value), found {source!r}"
    )


def _constant(where: str, name: str, value: Any) -> Input:
    """Return a constant as JSON decodes it; later changes to the caller's object have no effect."""
    return Input(name, const=JSON.loads(JSON.dumps(value, f"{where}, constant {name!r}")))
