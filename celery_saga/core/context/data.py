"""The values of a context, each kept as a value, as JSON text, or as both.

A value usually goes from a checkpoint into a message without being read, so its text is passed on
unchanged. It is encoded once, by the code that adds it, and decoded where it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from celery_saga.core.context.codec import JSON, Codec, as_returned, check_keys, returned_key
from celery_saga.core.context.lazy import NotLoaded
from celery_saga.errors import ContextTooLarge, UnreadableCheckpoint, UnserializableValue

_UNKNOWN: Any = object()

#: The prefix of the keys that branches and the like write
#: (:mod:`celery_saga.core.context.scoped`); no key of a user's may begin with it.
SEPARATOR = "\x1f"


class _Entry:
    """One value; its value or text is made when it is read, if it is not known yet."""

    __slots__ = ("_text", "_value")

    def __init__(self, value: Any = _UNKNOWN, text: str | bytes | None = None) -> None:
        self._value = value
        self._text = text.decode() if isinstance(text, bytes) else text

    def value(self, codec: Codec) -> Any:
        if self._value is _UNKNOWN:
            self._value = codec.loads(self._text or "")
        return self._value

    def text(self, key: str, codec: Codec) -> str:
        if self._text is None:
            self._text = codec.dumps_item(key, self._value)
        return self._text

    def same(self, other: _Entry) -> bool:
        if self is other or (self._value is not _UNKNOWN and self._value is other._value):
            return True
        return self._text is not None and self._text == other._text


class Values(Mapping[str, Any]):
    """A whole context; immutable, although the values in it may not be.

    Args:
        values: keys and values.
        texts: keys and JSON texts, as :meth:`texts` gives them.
        owner: the saga from whose record they come.
        codec: converts values and texts; by default that of ``values``.
    """

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        texts: Mapping[str, str | bytes] | None = None,
        owner: str = "",
        codec: Codec = JSON,
    ) -> None:
        self._entries: dict[str, _Entry]
        self._owner, self.codec = owner, codec
        if isinstance(values, Values):
            self._entries, self._owner = dict(values._entries), values._owner
            self.codec = values.codec
        else:
            self._entries = {key: _Entry(value) for key, value in (values or {}).items()}
        for key, text in (texts or {}).items():
            self._entries[key] = _Entry(text=text)

    def __getitem__(self, key: str) -> Any:
        return self._decoded(key, self._entries[key])

    def _decoded(self, key: str, entry: _Entry) -> Any:
        try:
            return entry.value(self.codec)
        except ValueError as error:
            if not self._owner:
                raise
            raise UnreadableCheckpoint(self._owner, f"context[{key!r}]", str(error)) from error

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(map(repr, self._entries))}>"

    def text(self, key: str) -> str:
        """Return the value of ``key`` as JSON text.

        Raises:
            KeyError: the context lacks the key.
            UnserializableValue: it cannot be stored; names the key path.
        """
        if key not in self:
            raise KeyError(key)
        return self._entries[key].text(key, self.codec)

    def texts(self) -> dict[str, str]:
        """Return each value as JSON text.

        Raises:
            UnserializableValue: one cannot be stored; names the key path.
        """
        check_keys(self.keys())
        codec = self.codec
        return {key: self._entries[key].text(key, codec) for key in self}

    def json(self) -> str:
        """Return all of it as one JSON object; raises like :meth:`texts`."""
        pairs = [f"{json.dumps(key)}:{text}" for key, text in self.texts().items()]
        return f"{{{','.join(pairs)}}}"

    @property
    def size(self) -> int:
        """Characters of all values as JSON text."""
        codec = self.codec
        return sum([len(entry.text(key, codec)) for key, entry in self._entries.items()])

    @property
    def digest(self) -> str:
        """Return a text that is equal for equal contexts, in any order of keys."""
        texts = {key: _canonical(text) for key, text in self.texts().items()}
        return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]

    def check_size(self, limit: int | None, shown: Callable[[str], str] = repr) -> None:
        """Refuse a context that is too large.

        Args:
            limit: characters of all values as JSON text; ``None``: no limit.
            shown: what a key is called in the error.

        Raises:
            ContextTooLarge: names the largest keys.
        """
        if limit is None or self.size <= limit:
            return
        sizes = {key: len(text) for key, text in self.texts().items()}
        largest = sorted(sizes, key=lambda key: -sizes[key])[:3]
        named = ", ".join(f"{shown(key)} ({sizes[key]})" for key in largest)
        raise ContextTooLarge(self.size, limit, named)

    def changed(self, update: Mapping[str, Any], remove: Iterable[str] = ()) -> Values:
        """Return these with keys set and deleted; an update that is Values keeps its texts."""
        new = Values(self)
        new._entries.update(values_of(update)._entries)
        for key in remove:
            new._entries.pop(key, None)
        return new

    def renamed(self, name: Callable[[str], str]) -> Values:
        """These, under other keys."""
        new = Values(codec=self.codec, owner=self._owner)
        new._entries = {name(key): entry for key, entry in self._entries.items()}
        return new

    def since(self, before: Values) -> tuple[dict[str, str], list[str], list[str]]:
        """Compare with ``before``: texts of changed keys, the new ones of them, and lost keys.

        A value that is another object, and whose text is not known yet, counts as changed.

        Raises:
            UnserializableValue: a new value cannot be stored.
        """
        old = before._entries
        texts = {
            key: entry.text(key, self.codec)
            for key, entry in self._entries.items()
            if key not in old or not entry.same(old[key])
        }
        check_keys(texts.keys())
        return (
            texts,
            [key for key in texts if key not in old],
            [key for key in old if key not in self],
        )


def _canonical(text: str) -> str:
    # The keys of a dict are in the order in which the caller has set them.
    return json.dumps(json.loads(text), sort_keys=True) if text[:1] in "{[" else text


class PartialValues(Values):
    """Some values of a context, and their changes.

    Args:
        texts: the values that were read.
        absent: keys that were requested and do not exist.
        size: of the whole context.
        owner: the saga from whose record they come.
    """

    def __init__(
        self,
        texts: Mapping[str, str | bytes],
        absent: Iterable[str] = (),
        size: int = 0,
        owner: str = "",
        codec: Codec = JSON,
    ) -> None:
        super().__init__(texts=texts, owner=owner, codec=codec)
        self._absent = frozenset(absent)
        self._removed: frozenset[str] = frozenset()
        self._updated: dict[str, None] = {}
        self._read = self._entries
        self._size = size

    def __getitem__(self, key: str) -> Any:
        if key in self:
            return super().__getitem__(key)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        if key in self._entries:
            return True
        if key in self._absent or key in self._removed:
            return False
        raise NotLoaded(f"context key {key!r}")

    def __iter__(self) -> Iterator[str]:
        raise NotLoaded("the whole context")

    def __len__(self) -> int:
        raise NotLoaded("the whole context")

    @property
    def size(self) -> int:
        """Characters of the whole context, or more if replaced values were not read."""
        if not self._updated:
            return self._size
        codec = self.codec
        texts = {key: self._entries[key].text(key, codec) for key in self._updated}
        replaced = (self._read[key].text(key, codec) for key in texts if key in self._read)
        return self._size + sum(map(len, texts.values())) - sum(map(len, replaced))

    def changed(self, update: Mapping[str, Any], remove: Iterable[str] = ()) -> PartialValues:
        """Return these with keys set and deleted."""
        new = PartialValues({}, self._absent, self._size, self._owner, self.codec)
        new._entries, new._read = super().changed(update, remove)._entries, self._read
        deleted = frozenset(remove)
        new._updated = {key: None for key in (*self._updated, *update) if key not in deleted}
        new._removed = self._removed.difference(update) | deleted
        return new

    def since(self, before: Values) -> tuple[dict[str, str], list[str], list[str]]:
        """The same as :meth:`Values.since`; a key that was not read counts as new."""
        texts = {
            key: self._entries[key].text(key, self.codec)
            for key in self._updated
            if key not in before._entries or not self._entries[key].same(before._entries[key])
        }
        check_keys(texts.keys())
        new = [key for key in texts if key not in before._entries]
        return texts, new, list(self._removed)


def values_of(values: Mapping[str, Any]) -> Values:
    """Return ``values`` as :class:`Values`."""
    return values if isinstance(values, Values) else Values(values)


def encoded(values: Mapping[str, Any], codec: Codec = JSON) -> Values:
    """Return ``values`` as texts only, so that later changes to the objects have no effect.

    Raises:
        UnserializableValue: one cannot be stored; names the key path.
    """
    for key in values:
        if isinstance(key, str) and key.startswith(SEPARATOR):
            advice = "it keeps the contexts of branches apart; choose another key"
            raise UnserializableValue(
                f"context[{key!r}]", "a key with the character U+001F", advice
            )
    if isinstance(values, Values):
        return Values(texts=values.texts(), codec=values.codec)
    texts = {key: codec.dumps_item(key, value) for key, value in values.items()}
    check_keys(texts.keys())
    return Values(texts=texts, codec=codec)


def returned(values: Mapping[str, Any], codec: Codec = JSON) -> Values:
    """Like :func:`encoded`, for the result of a step, as Celery's JSON serializer decodes it.

    Raises:
        UnserializableValue: the serializer refuses it; names the key path.
    """
    try:
        return encoded(values, codec)
    except UnserializableValue:
        pass  # convert it below
    keys = {key: returned_key(key) for key in values}
    return encoded(
        {key: as_returned(values[old], f"context[{key!r}]") for old, key in keys.items()}, codec
    )


def is_read(values: Mapping[str, Any]) -> bool:
    """Whether all of a context was read."""
    return not isinstance(values, PartialValues)
