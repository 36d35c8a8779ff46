"""What lies behind a task or a decorated function, down to the function that its author wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

#: Looks behind objects that must not be asked for their attributes, or are not functions.
Look = Callable[[Any], Iterable[Any] | None]

_looks: list[Look] = []


def look_by(look: Look) -> None:
    """Have ``look`` asked first: what is right behind an object; ``None``: it does not know it."""
    _looks.append(look)


def layers(target: Any) -> list[Any]:
    """``target`` and what is behind it, outermost first."""
    found: list[Any] = []
    left = [target]
    while left:
        one = left.pop(0)
        if one is not None and not any(one is each for each in found):
            found.append(one)
            left.extend(_behind(one))
    return found


def _behind(one: Any) -> Iterable[Any]:
    for look in _looks:
        known = look(one)
        if known is not None:
            return known
    if isinstance(one, partial):
        return (one.func,)
    return (getattr(one, "__func__", None), getattr(one, "__wrapped__", None))
