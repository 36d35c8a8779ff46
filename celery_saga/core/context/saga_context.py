"""SagaContext: the data that a saga carries from step to step."""

from __future__ import annotations

import keyword
from collections.abc import (
    ItemsView,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from reprlib import recursive_repr
from typing import Any

from celery_saga.core.context.masking import masked


class SagaContext(MutableMapping[str, Any]):
    """A saga's data: a mapping whose keys can be read and written as attributes too.

    ::

        context = SagaContext(order_id=7, items=[{"sku": "A", "quantity": 2}])
        context.total = 99.99
        context["total"]                # 99.99
        context["items"]                # the data; context.items is the mapping's method

    Keys are str and keep their order. Every key works as an item. As an attribute, a key with the
    name of a mapping method (clear, get, items, keys, pop, popitem, setdefault, update, values) can
    be set and deleted, but reading it returns the method. An attribute that starts with an
    underscore is private to this object: it is not a key, and is neither copied nor stored.

    A dict or list is copied when it is set, nested ones included, so that later changes to the
    caller's own object do not affect the context. Reading returns the stored object itself, so a
    change to it is kept. Any value can be set; a value that is not JSON-serializable is refused
    when the context is stored or sent.

    A context equals every mapping with the same content, in any order. An empty one is falsy.
    The behaviour follows SagaContext of the Minos framework.

    Args:
        fields: the first keys and values. A positional argument is not accepted: use
            ``SagaContext(**mapping)``.
    """

    __slots__ = ("__dict__", "__fields", "__weakref__")

    def __init__(self, /, **fields: Any) -> None:
        self.__fields: dict[str, Any] = {}
        self.update(fields)

    def __getitem__(self, key: str, /) -> Any:
        return self.__fields[key]

    def __setitem__(self, key: str, value: Any, /) -> None:
        self.__fields[checked_key(key)] = _copied(value)

    def __delitem__(self, key: str, /) -> None:
        del self.__fields[key]

    def __contains__(self, key: object, /) -> bool:
        return key in self.__fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.__fields)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.__fields)

    def __len__(self) -> int:
        return len(self.__fields)

    # Python calls __getattr__ only for unknown attributes, so methods take precedence over keys.
    def __getattr__(self, name: str, /) -> Any:
        if not name.startswith("_") and name in self.__fields:
            return self.__fields[name]
        raise _missing(self, name)

    def __setattr__(self, name: str, value: Any, /) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self[name] = value

    def __delattr__(self, name: str, /) -> None:
        if name.startswith("_"):
            super().__delattr__(name)
        elif name in self.__fields:
            del self.__fields[name]
        else:
            raise _missing(self, name)

    def keys(self) -> KeysView[str]:
        """Return a live view of the keys."""
        return self.__fields.keys()

    def values(self) -> ValuesView[Any]:
        """Return a live view of the values."""
        return self.__fields.values()

    def items(self) -> ItemsView[str, Any]:
        """Return a live view of the pairs. Data under the key ``items`` is ``context["items"]``."""
        return self.__fields.items()

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default``."""
        return self.__fields.get(key, default)

    def update(self, other: Any = None, /, **fields: Any) -> None:
        """Set the pairs of ``other`` and then ``fields``, which take precedence; all or none.

        Args:
            other: a mapping, an iterable of pairs, or None for nothing.
            fields: more pairs; every name is allowed, ``other`` and ``self`` too.

        Raises:
            TypeError: a key is not a str; nothing was changed.
        """
        pairs = {**dict(() if other is None else other), **fields}
        self.__fields.update({checked_key(key): _copied(value) for key, value in pairs.items()})

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, set to ``default`` first if the key is missing.

        It returns the stored object, so ``setdefault("seen", []).append(1)`` is kept.
        """
        if key not in self.__fields:
            self[key] = default
        return self.__fields[key]

    def pop(self, key: str, default: Any = None) -> Any:
        """Remove ``key`` and return its value, or ``default`` (None) if the key is missing."""
        return self.__fields.pop(key, default)

    def clear(self) -> None:
        """Remove every key."""
        self.__fields.clear()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SagaContext):
            return self.__fields == other.__fields
        if isinstance(other, Mapping):
            return self.__fields == dict(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @recursive_repr("SagaContext(...)")
    def __repr__(self) -> str:
        shown = masked(self.__fields)
        named = [f"{key}={value!r}" for key, value in shown.items() if _is_name(key)]
        others = {key: value for key, value in shown.items() if not _is_name(key)}
        if others:
            named.append(f"**{others!r}")
        return f"{type(self).__name__}({', '.join(named)})"

    def __json__(self) -> dict[str, Any]:
        """Return the plain dict that kombu's JSON encoder writes for a context."""
        return dict(self.__fields)

    # This pair serves copy, deepcopy and pickle. The state is a tuple because pickle omits a falsy
    # state, as an empty dict would be.
    def __getstate__(self) -> tuple[dict[str, Any]]:
        return (self.__fields,)

    def __setstate__(self, state: tuple[dict[str, Any]], /) -> None:
        self.__fields = dict(state[0])


def checked_key(key: Any) -> str:
    """Return ``key`` as a plain str.

    Raises:
        TypeError: it is not a str.
    """
    if not isinstance(key, str):
        raise TypeError(f"keys of a SagaContext are str, not {type(key).__name__}: {key!r}")
    return key if type(key) is str else str.__str__(key)


def _missing(context: SagaContext, name: str) -> AttributeError:
    return AttributeError(
        f"{type(context).__name__!r} object has no attribute {name!r}", name=name, obj=context
    )


def _is_name(key: str) -> bool:
    return key.isidentifier() and not keyword.iskeyword(key)


def _copied(value: Any) -> Any:
    """Return ``value`` with every nested dict and list copied, and all else shared.

    It does not recurse, so depth and cycles do not matter here; storing the value refuses them.
    """
    if type(value) not in (dict, list):
        return value
    copies: dict[int, Any] = {}
    waiting: list[tuple[Any, Any]] = []

    def shell(item: Any) -> Any:
        if type(item) not in (dict, list):
            return item
        if id(item) not in copies:
            copies[id(item)] = {} if type(item) is dict else []
            waiting.append((item, copies[id(item)]))
        return copies[id(item)]

    top = shell(value)
    while waiting:
        source, copy = waiting.pop()
        if type(source) is dict:
            copy.update((key, shell(item)) for key, item in source.items())
        else:
            copy.extend(map(shell, source))
    return top
