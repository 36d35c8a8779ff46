"""Plain functions that sagas use as steps, under the names by which workers find them.

A worker finds a function if importing the user's modules registers it there too: therefore a
function counts when a saga that uses it is committed while a module is imported, or when it is
registered by hand.
"""

from __future__ import annotations

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
    """Whether ``target`` is a plain function. Asks its type only: a lazy task stays untouched."""
    return type(target) is FunctionType


def wire_name(function: Function, fallback: str | None) -> str | None:
    """``saga:module.qualname``, or ``saga:<fallback>`` for a lambda or nested function.

    ``None`` if it is such a one and there is no fallback.
    """
    if "<" not in function.__qualname__:
        return f"{_PREFIX}{function.__module__}.{function.__qualname__}"
    return f"{_PREFIX}{fallback}" if fallback else None


def known(name: str | None) -> Function | None:
    """The function that is registered under ``name``."""
    return _known.get(name or "")


def register(name: str, function: Function) -> None:
    """Make ``function`` known under ``name`` and tell every app that listens.

    Raises:
        DefinitionError: the name stands for another function.
    """
    other = _known.get(name)
    if other is not None and not _same(other, function):
        raise DefinitionError(
            f"{name!r} stands for two functions, {_where(other)} and {_where(function)}: "
            f"give one of the sagas or functions another name"
        )
    _known[name] = function
    for listener in _listeners:
        listener(name, function)


def subscribe(listener: Listener) -> None:
    """Call ``listener`` for every function, those that are known already included."""
    _listeners.append(listener)
    for name, function in list(_known.items()):
        listener(name, function)


def _same(one: Function, other: Function) -> bool:
    """The same function, or the same source lines loaded again without captured variables."""
    if one is other:
        return True
    a, b = _code(one), _code(other)
    free = getattr(one, "__closure__", None) or getattr(other, "__closure__", None)
    return not free and (a.co_filename, a.co_firstlineno) == (b.co_filename, b.co_firstlineno)


def _code(function: Function) -> CodeType:
    code: CodeType = function.__code__
    return code


def _where(function: Function) -> str:
    code = _code(function)
    return f"{code.co_filename}:{code.co_firstlineno}"


def importing() -> bool:
    """Whether some module is being imported by the code that called us."""
    frame: FrameType | None = sys._getframe(1)
    caller = sys._getframe(1).f_globals.get("__name__")
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            name = frame.f_globals.get("__name__", "")
            spec = getattr(sys.modules.get(name), "__spec__", None)
            if getattr(spec, "_initializing", False):
                return True
            if name == "__main__" and caller != name and _direct(frame):
                return True
        frame = frame.f_back
    return False


def _direct(frame: Any) -> bool:
    """Whether a script's own top level runs: not a program such as a worker or a test runner."""
    return getattr(sys.modules.get("__main__"), "__spec__", None) is None and (
        frame.f_globals.get("__file__") is not None
    )


def task_name(name: str, main: str | None) -> str:
    """The name on an app whose ``main`` is given: ``__main__`` is named as Celery names it."""
    prefix = f"{_PREFIX}__main__."
    return f"{_PREFIX}{main}.{name[len(prefix) :]}" if main and name.startswith(prefix) else name
