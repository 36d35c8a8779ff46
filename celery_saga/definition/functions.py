"""Plain functions that sagas use as steps, under the names by which workers find them.

A worker finds a function if importing the user's modules registers it there too. Therefore a
function is registered when a saga that uses it is committed while a module is imported, or by an
explicit call.
"""

from __future__ import annotations

import ast
import functools
import linecache
import sys
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any

from celery_saga.errors import DefinitionError

Function = Callable[..., Any]
Listener = Callable[[str, Function], None]

_PREFIX = "saga:"
_known: dict[str, Function] = {}
_listeners: list[Listener] = []


def is_plain(target: Any) -> bool:
    """Whether ``target`` is a plain function. It reads only the type: a lazy task stays lazy."""
    return type(target) is FunctionType


def wire_name(function: Function, fallback: str | None) -> str | None:
    """Return ``saga:module.qualname``, or ``saga:<fallback>`` for a lambda or nested function.

    ``None`` for a lambda or nested function without a fallback.

    Raises:
        DefinitionError: it is not a plain function.
    """
    if not is_plain(function):
        raise DefinitionError(f"expected a plain function, found {function!r}")
    if "<" not in function.__qualname__:
        return f"{_PREFIX}{function.__module__}.{function.__qualname__}"
    return f"{_PREFIX}{fallback}" if fallback else None


def is_wire_name(name: str) -> bool:
    """Whether a task of that name is a plain function."""
    return name.startswith(_PREFIX)


def known(name: str | None) -> Function | None:
    """Return the function that is registered under ``name``."""
    return _known.get(name or "")


def register(name: str, function: Function) -> None:
    """Register ``function`` under ``name`` and notify every app that listens.

    Raises:
        DefinitionError: the name is registered for another function.
    """
    other = _known.get(name)
    if other is function:
        return
    if other is not None and not same(other, function):
        raise DefinitionError(
            f"{name!r} is the name of two functions, {_where(other)} and {_where(function)}: "
            f"give one of the sagas or functions another name"
        )
    _known[name] = function
    for listener in _listeners:
        listener(name, function)


def subscribe(listener: Listener) -> None:
    """Call ``listener`` for every function, including those that are registered already."""
    _listeners.append(listener)
    for name, function in list(_known.items()):
        listener(name, function)


def same(one: Function, other: Function) -> bool:
    """Whether two functions do the same and neither captures values of its own.

    Where a module was loaded twice, its functions are compared by their line numbers.
    """
    if one is other:
        return True
    a, b = _code(one), _code(other)
    if one.__closure__ or other.__closure__ or a.co_filename != b.co_filename:
        return False
    if one.__globals__ is not other.__globals__:
        return a.co_firstlineno == b.co_firstlineno
    return a == b and _defaults(one) == _defaults(other)


def _defaults(function: Any) -> tuple[Any, Any]:
    return function.__defaults__, function.__kwdefaults__


def _code(function: Function) -> CodeType:
    code: CodeType = function.__code__
    return code


def _where(function: Function) -> str:
    code = _code(function)
    return f"{code.co_filename}:{code.co_firstlineno}"


def importing() -> bool:
    """Whether the running code also runs in every other process that imports its modules.

    That is the code of a module which is being imported, and the code of a script outside of
    ``if __name__ == "__main__":``.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            name = frame.f_globals.get("__name__", "")
            spec = getattr(sys.modules.get(name), "__spec__", None)
            if getattr(spec, "_initializing", False):
                return True
            if name == "__main__" and _outside_of_guard(frame):
                return True
        frame = frame.f_back
    return False


def _outside_of_guard(frame: FrameType) -> bool:
    guarded = _guarded(frame.f_globals.get("__file__") or "")
    return guarded is not None and not any(frame.f_lineno in lines for lines in guarded)


@functools.lru_cache(maxsize=8)
def _guarded(path: str) -> tuple[range, ...] | None:
    """The lines of a script that run only in the main program; ``None``: it has no source."""
    source = "".join(linecache.getlines(path))
    if not source:
        return None
    return tuple(
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
    )


def task_name(name: str, main: str | None) -> str:
    """The name on an app whose ``main`` is given: ``__main__`` is replaced, as Celery does it."""
    prefix = f"{_PREFIX}__main__."
    return f"{_PREFIX}{main}.{name[len(prefix) :]}" if main and name.startswith(prefix) else name
