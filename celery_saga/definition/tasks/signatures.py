"""Finds the parameters with which a task can be called by name.

A decorator with ``functools.wraps`` shows the signature of the function under it, but accepts what
its own signature says: it may pass that function an argument, or take one for itself. So the
parameters of each layer are read, and those of the next one only for what this layer passes on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from inspect import Parameter
from typing import Any

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

#: A function in C that passes everything on to the one under it, as ``functools.cache`` makes it.
_ALL = [
    Parameter("args", Parameter.VAR_POSITIONAL),
    Parameter("kwargs", Parameter.VAR_KEYWORD),
]


def parameters_of(function: Callable[..., Any]) -> list[Parameter] | None:
    """Return the parameters of a function under all its decorators; ``None``: not known.

    What a decorator passes on by position alone is positional-only here.
    """
    found: dict[str, Parameter] = {}
    rest: dict[Any, Parameter] = {}
    layer: Any = function
    bound = by_position = False
    while layer is not None:
        if inspect.ismethod(layer):
            layer, bound = layer.__func__, True
        own, layer = _own(layer)
        if own is None:
            return None
        if bound and own and own[0].kind in _POSITIONAL:
            own = own[1:]
        rest = {param.kind: param for param in own if param.name and _variable(param)}
        for param in own:
            if not _variable(param):
                kind = Parameter.POSITIONAL_ONLY if by_position else param.kind
                found.setdefault(param.name, param.replace(kind=kind))
        by_position = by_position or Parameter.VAR_KEYWORD not in rest
        if by_position:
            rest.pop(Parameter.VAR_KEYWORD, None)
        if not rest:
            break
    return sorted([*found.values(), *rest.values()], key=lambda param: param.kind)


def _own(layer: Any) -> tuple[list[Parameter] | None, Any]:
    """Return the parameters of a layer itself, and the layer under it, if any."""
    if isinstance(layer, partial):
        # What it binds is still in the signature of the layer under it, which it may show.
        bare = partial(layer.func, *layer.args, **layer.keywords)
        return _read(bare, follow=True), None
    under = getattr(layer, "__wrapped__", None)
    own = _read(layer, follow=False)
    return (_ALL if own is None and under is not None else own), under


def _read(function: Any, follow: bool) -> list[Parameter] | None:
    try:
        return list(inspect.signature(function, follow_wrapped=follow).parameters.values())
    except (TypeError, ValueError):
        return None


def _variable(param: Parameter) -> bool:
    return param.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def unknown(params: Iterable[Parameter] | None) -> bool:
    """Whether the parameters do not say what a function must be given by name."""
    kinds = None if params is None else {param.kind for param in params}
    return kinds is None or (
        Parameter.VAR_KEYWORD in kinds
        and kinds <= {Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL}
    )
