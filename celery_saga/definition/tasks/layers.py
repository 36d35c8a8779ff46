"""Finds what is behind a task or a decorated function, down to the function of its author."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

#: Resolves objects whose attributes must not be read, or which are not functions.
Resolver = Callable[[Any], Iterable[Any] | None]

_resolvers: list[Resolver] = []


def register_resolver(resolver: Resolver) -> None:
    """Register a function that returns what is right behind an object; ``None``: not known."""
    _resolvers.append(resolver)


def layers(target: Any) -> list[Any]:
    """Return ``target`` and what is behind it, outermost first."""
    found: list[Any] = []
    left = [target]
    while left:
        one = left.pop(0)
        if one is not None and not any(one is each for each in found):
            found.append(one)
            left.extend(_behind(one))
    return found


def _behind(one: Any) -> Iterable[Any]:
    for resolver in _resolvers:
        known = resolver(one)
        if known is not None:
            return known
    if isinstance(one, partial):
        return (one.func,)
    return (getattr(one, "__func__", None), getattr(one, "__wrapped__", None))
