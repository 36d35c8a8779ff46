"""Encodes values as JSON text, and decodes them with their types.

A value is encoded as kombu does it in a message, so that checkpoint and message hold the same text.
A value that one of them cannot hold is refused before it is sent.

These values are decoded equal and of the same type, and all others are refused:

- None, bool, str, list, and dict with str keys;
- int of up to 4300 digits, which is as much as Python reads from text by default;
- float except nan and infinity, Decimal except nan;
- datetime, date, time, UUID, bytes.

Three attributes that ``==`` ignores are not kept: the ``fold`` of a datetime or time, the
``is_safe`` of a UUID, and the name of a time zone. A datetime in a named zone (``ZoneInfo``) is
decoded with the same clock reading and the zone's offset at that moment. It is the same instant and
equal, except in the hour that a zone's clock repeats or skips: there Python never considers
datetimes of two zones equal.

Subclasses are refused (namedtuple, OrderedDict, IntEnum, numpy.float64, ...), because they would be
decoded as their base. So is a str with lone surrogates, which is not valid Unicode. What a step
returns is converted to its decoded form; see :func:`as_returned`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections.abc import Callable, Collection, Iterator, KeysView, Mapping, Set
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any
from uuid import UUID

from kombu.utils import json as kombu_json

from celery_saga.errors import UnserializableValue

#: How deep dicts and lists may be nested. JSON parsers fail at some hundreds.
MAX_DEPTH = 100

# Python's own limit for reading an int from text.
_TOO_LONG = 10**4300

# The same as kombu's own dumps makes for each call. Checked values contain no circles.
_encode = kombu_json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

# The keys of the dict that kombu writes for a datetime and the like.
_MARKER = {"__type__", "__value__"}


class Codec:
    """Converts values to JSON text and back: in checkpoints, and in messages made of them.

    Each app has one, ``Runtime.codec``: its store, its publisher and its step runner use it. Code
    without an app uses :data:`JSON`. A text goes from a checkpoint into a message unchanged, and
    Celery reads it there as JSON. A subclass may write other texts, as long as they are JSON.
    """

    __slots__ = ()

    def dumps(self, value: Any, path: str = "") -> str:
        """Return ``value`` as compact JSON text.

        Args:
            value: see the module's list; it is checked first.
            path: how the error names the value, such as ``context['order']``.

        Raises:
            UnserializableValue: a part of it would be decoded differently; names the key path.
        """
        check(value, path)
        try:
            return _encode(value)
        except (ValueError, RecursionError) as error:
            # Remaining cases: a process with a lowered int limit, or a nearly full call stack.
            raise UnserializableValue(path or "value", f"cannot be stored ({error})") from error

    def loads(self, text: str | bytes) -> Any:
        """Return the value of which :meth:`dumps` wrote the text.

        Raises:
            ValueError: the text is not JSON, or :meth:`dumps` does not write such a text.
        """
        try:
            return kombu_json.loads(text)
        except (TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"not a stored value: {error!r}") from error

    def dumps_item(self, key: str, value: Any) -> str:
        """Return one value of a context as JSON text.

        Raises:
            UnserializableValue: the key or the value cannot be stored; names the key path.
        """
        path = f"context{_segment(key)}"
        try:
            _check_key(key)
        except _Refused as refused:
            raise UnserializableValue(path, *refused.args) from None
        return self.dumps(value, path)


#: Plain JSON text, for code without an app and for values that are not a user's.
JSON = Codec()


def check_keys(keys: KeysView[str]) -> None:
    """Refuse a context with the two keys that together mark kombu's own values in a message.

    Raises:
        UnserializableValue: both keys exist; either alone is allowed.
    """
    if keys >= _MARKER:
        raise UnserializableValue("context", *_MARKER_REFUSAL)


def check(value: Any, path: str = "") -> None:
    """Refuse ``value`` if it would not be decoded equal and of the same type.

    Args:
        value: see the module's list.
        path: how the error names the value, such as ``context['order']``.

    Raises:
        UnserializableValue: names the key path and gives advice.
    """
    try:
        _CHECKS.get(type(value), _refuse)(value, set())
    except (_Refused, RecursionError) as refused:
        raise _unserializable(path or "value", refused) from None


def as_returned(value: Any, path: str = "") -> Any:
    """Return ``value`` as Celery's JSON serializer would decode it from a result.

    A tuple becomes a list, a subclass its base, a key of a dict its text; a value that
    :func:`check` accepts is unchanged.

    Args:
        value: anything.
        path: how the error names the value.

    Raises:
        UnserializableValue: the serializer refuses it, or would not decode it as one of the values
            that are listed above; names the key path.
    """
    try:
        return _returned(value, set())
    except (_Refused, RecursionError) as refused:
        raise _unserializable(path or "value", refused) from None


def returned_key(key: Any) -> str:
    """Return a key of a context as Celery's JSON serializer would decode it.

    Raises:
        UnserializableValue: the serializer refuses it.
    """
    try:
        return _returned_key(key)
    except _Refused as refused:
        raise _unserializable(f"context{_segment(key)}", refused) from None


def _unserializable(path: str, refused: _Refused | RecursionError) -> UnserializableValue:
    if isinstance(refused, RecursionError):
        return UnserializableValue(path, *_DEPTH_REFUSAL)
    return UnserializableValue(path + "".join(map(_segment, reversed(refused.keys))), *refused.args)


class _Refused(Exception):
    """What is wrong and what to do; ``keys`` collects the path to it from the inside outwards."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found, advice)
        self.keys: list[Any] = []


_DEPTH_REFUSAL = (
    f"is nested too deep (more than {MAX_DEPTH} levels, or than the call stack has room for)",
    "store it as a flat list or a str",
)
_CIRCLE_REFUSAL = ("contains itself", "store a reference, such as an id")
_MARKER_REFUSAL = (
    "the keys '__type__' and '__value__' together cannot be stored, kombu keeps them for itself",
    "rename one of them",
)


# Each check takes a value of its type and the ids of the containers around the value.


def _refuse(value: Any, inside: set[int]) -> None:
    raise _Refused(f"{_a(type(value))} cannot be stored", _advice(value))


def _accept(value: Any, inside: set[int]) -> None:
    """Accept every value of its type."""


def _check_container(value: dict[Any, Any] | list[Any], inside: set[int]) -> None:
    if id(value) in inside:
        raise _Refused(*_CIRCLE_REFUSAL)
    if len(inside) >= MAX_DEPTH:
        raise _Refused(*_DEPTH_REFUSAL)
    if len(value) == 2 and type(value) is dict and value.keys() == _MARKER:
        raise _Refused(*_MARKER_REFUSAL)
    inside.add(id(value))
    key: Any = None
    try:
        if type(value) is dict:
            for key, item in value.items():
                if type(key) is not str or not key.isascii():
                    _check_key(key)
                if not (type(item) is str and item.isascii()):  # the most frequent case first
                    _CHECKS.get(type(item), _refuse)(item, inside)
        else:
            for key, item in enumerate(value):  # noqa: B007 (the handler needs it)
                _CHECKS.get(type(item), _refuse)(item, inside)
    except _Refused as refused:
        refused.keys.append(key)
        raise
    inside.remove(id(value))


def _returned(value: Any, inside: set[int]) -> Any:
    """Check a value like the others, and return its decoded form."""
    kind = type(value)
    if not isinstance(value, (dict, list, tuple)):
        back = value if kind in _CHECKS else _round_trip(value)
        _CHECKS.get(type(back), _refuse)(back, set())
        return back
    if id(value) in inside or len(inside) >= MAX_DEPTH:
        raise _Refused(*(_CIRCLE_REFUSAL if id(value) in inside else _DEPTH_REFUSAL))
    inside.add(id(value))
    key: Any = None
    made: Any
    try:
        if isinstance(value, dict):
            made = {}
            for key, item in value.items():
                made[_returned_key(key)] = _returned(item, inside)
        else:
            made = []
            for key, item in enumerate(value):  # noqa: B007 (the handler needs it)
                made.append(_returned(item, inside))
    except _Refused as refused:
        refused.keys.append(key)
        raise
    inside.remove(id(value))
    if isinstance(made, dict) and made.keys() == _MARKER:
        raise _Refused(*_MARKER_REFUSAL)
    return made


def _returned_key(key: Any) -> str:
    if type(key) is not str:
        with suppress(TypeError, ValueError):
            (key,) = json.loads(json.dumps({key: None}))
    _check_key(key)
    return str(key)


def _round_trip(value: Any) -> Any:
    try:
        return JSON.loads(_encode(value))
    except RecursionError:
        raise
    except Exception:  # __json__ and the like are user code
        _refuse(value, set())


def _check_key(key: Any) -> None:
    if type(key) is not str:
        raise _Refused(f"{_a(type(key))} cannot be stored as a key", "use a plain str")
    _check_str(key, set())


def _check_str(value: str, inside: set[int]) -> None:
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Refused(
            "a str with lone surrogates cannot be stored",
            "use bytes, or replace them: value.encode(errors='replace').decode()",
        ) from None


def _check_int(value: int, inside: set[int]) -> None:
    if not -_TOO_LONG < value < _TOO_LONG:
        raise _Refused("an int of more than 4300 digits cannot be stored", "use hex(value)")


def _check_float(value: float, inside: set[int]) -> None:
    if not math.isfinite(value):
        raise _Refused(f"the float {value} cannot be stored, JSON has no such number", "use None")


def _check_decimal(value: Decimal, inside: set[int]) -> None:
    if value.is_nan():
        raise _Refused("a Decimal that is not a number cannot be stored", "use None")


def _check_zone(value: datetime | time, inside: set[int]) -> None:
    """Refuse a zone without a readable offset, because it would be lost silently."""
    if value.tzinfo is None:
        return
    try:
        offset = value.utcoffset()
    except Exception:  # tzinfo may be any class, and this one raises
        offset = None
    # Python reads an offset of less than a second as UTC. No real zone has one.
    if offset is None or offset.microseconds:
        raise _Refused(
            f"{_a(type(value))} cannot be stored in a time zone without an offset in whole seconds",
            "store it without tzinfo, and the zone's name beside it",
        )


_CHECKS: dict[type, Callable[[Any, set[int]], None]] = {
    **dict.fromkeys((type(None), bool, date, UUID, bytes), _accept),
    str: _check_str,
    int: _check_int,
    float: _check_float,
    Decimal: _check_decimal,
    datetime: _check_zone,
    time: _check_zone,
    dict: _check_container,
    list: _check_container,
}

# The first base that applies gives the advice, so a class precedes its own bases.
_ADVICE: tuple[tuple[type, str], ...] = (
    (Enum, "use its .value"),
    *(
        (base, f"use a plain {base.__name__}")
        for base in (str, int, float, bytes, dict, list, Decimal, UUID, datetime, date, time)
    ),
    (Mapping, "use dict(value)"),
    (tuple, "use a list"),
    (Set, "use a list"),
    (Iterator, "use list(value)"),
    (bytearray, "use bytes(value)"),
    (memoryview, "use bytes(value)"),
    (timedelta, "use value.total_seconds()"),
    (PurePath, "use str(value)"),
    (BaseException, "use str(value)"),
    (Collection, "use list(value)"),
    (Integral, "use int(value)"),
    (Real, "use float(value)"),
)


def _advice(value: Any) -> str:
    kind = type(value)
    for base, advice in _ADVICE:
        if issubclass(kind, base):
            return advice
    if dataclasses.is_dataclass(kind):
        return "use dataclasses.asdict(value)"
    if hasattr(kind, "model_dump"):
        return "use value.model_dump()"
    if hasattr(kind, "_meta"):
        return "store its primary key"
    if callable(value):
        return "store what it returns, not the callable"
    return "use a dict of its data"


def _a(kind: type) -> str:
    name = kind.__name__
    return f"{'an' if name[:1] in 'aeioAEIO' else 'a'} {name}"


def _segment(key: Any) -> str:
    if type(key) is str:
        return f"[{key!r}]"
    try:
        return f"[{reprlib.repr(key)}]"
    except ValueError:  # an int that is too long for Python to print
        return f"[{type(key).__name__}]"
