"""Scopes of a context: what branches, items and nested sagas write beside each other.

All scopes of a run are kept in one mapping. The names of the saga's own keys are the keys. Those of
other scopes have the scope's id in front, between two separators: ``<US>2.0<US>order_id``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from celery_saga.core.context.data import SEPARATOR, Values, _Entry

#: The text of a key that was removed in a scope, and that is still there in the one around it.
REMOVED = '"\\u001fremoved"'


class Scope(NamedTuple):
    """A part of the context into which the steps below a branch, an item or a nested saga write.

    Args:
        id: empty for that of the whole saga.
        inputs: what is seen in it of the context around it: names inside, names outside; ``None``:
            all of it.
    """

    id: str
    inputs: Mapping[str, str] | None = None


def lookups(scopes: Iterable[Scope], key: str) -> Iterator[tuple[Scope, str]]:
    """Where a key may be, the nearest scope first, and what it is called there."""
    for scope in scopes:
        yield scope, key
        if scope.inputs is not None:
            if key not in scope.inputs:
                return
            key = scope.inputs[key]


def stored_name(scope: str, key: str) -> str:
    """The name under which a key of a scope is kept."""
    return f"{SEPARATOR}{scope}{SEPARATOR}{key}" if scope else key


def split(name: str) -> tuple[str, str]:
    """Scope and key of a stored name."""
    if not name.startswith(SEPARATOR):
        return "", name
    scope, _, key = name[1:].partition(SEPARATOR)
    return scope, key


def names_in(scope: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The keys of one scope, each with its stored name."""
    for name in names:
        where, key = split(name)
        if where == scope:
            yield key, name


class View(Values):
    """A context as a node sees it, through its scopes.

    A key is looked up in the nearest scope first; the others are read only if it is not there.

    Args:
        base: all scopes, by stored names.
        scopes: the nearest first.
    """

    def __init__(self, base: Values, scopes: Sequence[Scope]) -> None:
        self._base, self._scopes = base, scopes
        self._owner, self.codec = base._owner, base.codec

    @cached_property
    def _entries(self) -> dict[str, _Entry]:  # type: ignore[override]
        """All that is seen; made when all of it is read."""
        base = self._base
        found: dict[str, _Entry] = {}
        for scope in reversed(self._scopes):
            if scope.inputs is not None:
                inputs = scope.inputs.items()
                found = {inner: found[outer] for inner, outer in inputs if outer in found}
            for key, name in names_in(scope.id, base):
                entry = base._entries[name]
                if _removed(entry):
                    found.pop(key, None)
                else:
                    found[key] = entry
        return found

    def _find(self, key: str) -> _Entry | None:
        for scope, named in lookups(self._scopes, key):
            name = stored_name(scope.id, named)
            if name in self._base:
                entry = self._base._entries[name]
                return None if _removed(entry) else entry
        return None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def __getitem__(self, key: str) -> Any:
        entry = self._find(key)
        if entry is None:
            raise KeyError(key)
        return self._decoded(key, entry)

    def text(self, key: str) -> str:
        entry = self._find(key)
        if entry is None:
            raise KeyError(key)
        return entry.text(key, self.codec)


def _removed(entry: _Entry) -> bool:
    return entry._text == REMOVED


def written(
    base: Values, scopes: Sequence[Scope], update: Mapping[str, Any], remove: Iterable[str]
) -> tuple[Values, list[str]]:
    """What a change that a node makes is in the stored names of its nearest scope."""
    scope = scopes[0].id
    changed = Values(update)
    if not scope:
        return changed, list(remove)
    named = changed.renamed(lambda key: stored_name(scope, key))
    outer, removed = View(base, scopes[1:]), []
    hidden = {}
    for key in remove:
        seen_outside = key if scopes[0].inputs is None else scopes[0].inputs.get(key)
        if seen_outside is not None and seen_outside in outer:
            hidden[stored_name(scope, key)] = REMOVED
        else:
            removed.append(stored_name(scope, key))
    return named.changed(Values(texts=hidden)), removed
