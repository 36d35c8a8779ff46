"""Checks a value against an annotation, as far as annotations say what a value is."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


class Mismatch(Exception):
    """What was expected and what was found; without the value, because the text is recorded.

    ``path`` leads to the place inside of the value.
    """

    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"at {'.'.join(self.path)}: " if self.path else ""
        return f"{where}{self.args[0]}"


def converted(annotation: Any, value: Any) -> Any:
    """Return ``value`` as the annotation has it: a list as a tuple, a mapping as a dataclass, ...

    An annotation that does not name a type (``Any``, a type variable, a protocol) takes any value.

    Raises:
        Mismatch: it is something else.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated or hasattr(annotation, "__supertype__"):  # a NewType
        return converted(args[0] if args else annotation.__supertype__, value)
    if origin in (Union, types.UnionType):
        return _one_of(annotation, args, value)
    if origin is Literal:
        if any(value == each and type(value) is type(each) for each in args):
            return value
        raise _mismatch(annotation, value)
    if annotation is None or annotation is type(None):
        return None if value is None else _raise(annotation, value)
    kind = origin or annotation
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False) or kind in (object, Any):
        return value
    return _of_class(annotation, kind, args, value)


def _one_of(annotation: Any, args: tuple[Any, ...], value: Any) -> Any:
    exact = [each for each in args if each is type(value)]
    for each in (*exact, *args):
        try:
            return converted(each, value)
        except Mismatch:
            continue
    raise _mismatch(annotation, value)


def _of_class(annotation: Any, kind: type[Any], args: tuple[Any, ...], value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _dataclass(kind, value)
    if issubclass(kind, Enum) and not isinstance(value, kind):
        try:
            return kind(value)
        except ValueError:
            raise _mismatch(annotation, value) from None
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float) and isinstance(value, bool):
        raise _mismatch(annotation, value)
    if issubclass(kind, Mapping) and isinstance(value, Mapping):
        return _mapping(args, value)
    listed = issubclass(kind, Collection) and not issubclass(kind, (str, bytes, Mapping))
    if listed and isinstance(value, (list, tuple, set, frozenset)):
        return _items(annotation, kind, args, value)
    return value if isinstance(value, kind) else _raise(annotation, value)


def _dataclass(kind: type[Any], value: Mapping[str, Any]) -> Any:
    hints, made = get_type_hints(kind, include_extras=True), {}
    for key, item in value.items():
        made[key] = _inside(f"{key}", hints.get(key, Any), item)
    try:
        return kind(**made)
    except (TypeError, ValueError) as error:
        raise Mismatch(str(error)) from error


def _mapping(args: tuple[Any, ...], value: Mapping[Any, Any]) -> Any:
    if len(args) != 2:
        return value
    return {key: _inside(f"{key}", args[1], item) for key, item in value.items()}


def _items(annotation: Any, kind: type[Any], args: tuple[Any, ...], value: Any) -> Any:
    each = list(value)
    if issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
        if len(args) != len(each):
            raise _mismatch(annotation, value)
        return tuple(_inside(str(n), it, each[n]) for n, it in enumerate(args))
    inner = args[0] if args else Any
    found = [_inside(str(number), inner, item) for number, item in enumerate(each)]
    return kind(found) if kind in (tuple, set, frozenset) else found


def _inside(place: str, annotation: Any, value: Any) -> Any:
    try:
        return converted(annotation, value)
    except Mismatch as mismatch:
        mismatch.path = (place, *mismatch.path)
        raise


def _raise(annotation: Any, value: Any) -> Any:
    raise _mismatch(annotation, value)


def _mismatch(annotation: Any, value: Any) -> Mismatch:
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return Mismatch(f"expected {name.replace('typing.', '')}, found {type(value).__name__}")


def plain_of(value: Any) -> Any:
    """Return a value without dataclasses, enums, tuples and sets in it, as a context holds it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [spec.name for spec in dataclasses.fields(value) if spec.init]
        return {name: plain_of(getattr(value, name)) for name in names}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_of(item) for item in value]
    return value
