"""What comes out of the scopes of branches and items when they are over, and into those of items.

All functions take the whole mapping of values; a scope is given by its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from celery_saga.core.context.data import Values, values_of
from celery_saga.core.context.scoped import REMOVED, names_in
from celery_saga.errors import BadItems, JoinConflict

#: Items that a loop may have: each is a part of the checkpoint as long as the saga runs.
MAX_ITEMS = 1000


def items_at(context: Mapping[str, Any], path: Sequence[str | int]) -> list[Any]:
    """The list that a loop goes over.

    Raises:
        BadItems: there is none, or it has too many items.
    """
    found: Any = context
    shown = "context" + "".join(f"[{key!r}]" for key in path)
    try:
        for key in path:
            found = found[key]
    except (KeyError, IndexError, TypeError):
        hint = ""
        if len(path) == 1 and "." in str(path[0]):
            hint = f": a path into a value is a tuple, {tuple(str(path[0]).split('.'))!r}"
        raise BadItems(shown, f"nothing there{hint}") from None
    if not isinstance(found, list):
        raise BadItems(shown, f"a value of type {type(found).__name__}")
    if len(found) > MAX_ITEMS:
        raise BadItems(shown, f"{len(found)} items", MAX_ITEMS)
    return found


def values_in(values: Mapping[str, Any], scope: str) -> Values:
    """What was written into a scope."""
    known = values_of(values)
    texts = {key: known.text(name) for key, name in names_in(scope, known)}
    return Values(texts=texts, codec=known.codec)


def split_removed(values: Values) -> tuple[Values, list[str]]:
    """What was written into a scope, and the keys of the context around it that were removed."""
    removed = [key for key, text in values.texts().items() if text == REMOVED]
    return values.changed({}, removed), removed


def returned(inside: Values, returns: Mapping[str, str]) -> Values:
    """What a saga inside of another one hands on, of the context that its own steps see."""
    found = {outer: key for outer, key in returns.items() if key in inside}
    texts = {outer: inside.text(key) for outer, key in found.items()}
    return Values(texts=texts, codec=inside.codec)


def joined(
    values: Mapping[str, Any], group: str, branches: Sequence[str], *, agreed: bool = False
) -> Values:
    """What all branches of a group wrote.

    Args:
        group: its path; the places of the branches behind it are their scopes.
        branches: the names of all.
        agreed: leave out the keys of which two wrote different values.

    Raises:
        JoinConflict: two of them wrote different values of one key.
    """
    found: dict[str, tuple[str, str]] = {}
    disputed: set[str] = set()
    for place, branch in enumerate(branches):
        own = values_in(values, f"{group}.{place}")
        for key, text in own.texts().items():
            other, known = found.setdefault(key, (branch, text))
            if known != text and own.codec.loads(known) != own.codec.loads(text):
                if not agreed:
                    raise JoinConflict(key, other, branch)
                disputed.add(key)
    return Values(texts={key: text for key, (_, text) in found.items() if key not in disputed})


def lists_of(
    values: Mapping[str, Any], scopes: Iterable[str], item: str, only: str | None
) -> tuple[dict[str, list[Any]], list[str]]:
    """The lists of what the items of a loop wrote, in their order, and the keys that they removed.

    Args:
        scopes: of the items.
        item: the key of the items themselves, which is left out.
        only: the one key that is collected; ``None``: all.
    """
    split = [split_removed(values_in(values, scope)) for scope in scopes]
    items = [each for each, _ in split]
    if only is not None:
        return {only: [each.get(only) for each in items]}, []
    keys = dict.fromkeys(key for each in items for key in each if key != item)
    removed = dict.fromkeys(key for _, keys_of_one in split for key in keys_of_one)
    lists = {key: [each.get(key) for each in items] for key in keys}
    return lists, [key for key in removed if key not in lists and key != item]
