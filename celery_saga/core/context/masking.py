"""Masks secrets in text for display: reprs, logs, Flower.

Masking is only for display. It never changes what is stored or sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

#: The text that replaces a masked value.
MASK = "***"

#: The text that replaces a context among arguments.
CONTEXT = "<SagaContext>"

#: A key that contains one of these words, in any spelling (``api_key``, ``apiKey``, ``API-Key``),
#: is assumed to hold a secret.
DEFAULT_MASK_KEYS: frozenset[str] = frozenset(
    {
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "token",
        "api_key",
        "access_key",
        "private_key",
        "encryption_key",
        "signing_key",
        "authorization",
        "credential",
        "cookie",
        "card_number",
        "credit_card",
        "cvv",
        "cvc",
    }
)

#: For this process: the default words and those of its apps. A context does not know its app.
_words = DEFAULT_MASK_KEYS

# Deeper values are cut, so that a deep or circular value still has a repr.
_DEEPEST = 16
_CUT = "..."


def masked(value: Any, mask_keys: Iterable[str] | None = None) -> Any:
    """Return a copy of ``value`` for display, in which values of sensitive keys are ``'***'``.

    It masks mappings at every depth, also inside lists, tuples and sets. A key is sensitive
    if it contains one of ``mask_keys``; case, ``_``, ``-`` and spaces make no difference. A mapping
    becomes a dict, a namedtuple the dict of its fields. A value inside itself, or nested more than
    16 levels deep, is shown as ``'...'``. Other values are unchanged, so the repr of a custom class
    is the responsibility of that class.

    Args:
        value: anything; it is not changed.
        mask_keys: the words, such as ``{"password", "iban"}``; by default those of
            :data:`DEFAULT_MASK_KEYS` and of :func:`mask_also`.
    """
    return _masked(value, _words if mask_keys is None else words_of(mask_keys), ())


def mask_also(mask_keys: Iterable[str]) -> None:
    """Mask values of these keys too, wherever this process gives no words of its own."""
    global _words
    _words |= words_of(mask_keys)


def words_of(mask_keys: Iterable[str]) -> frozenset[str]:
    """Return the words as a set; one text is one word."""
    return frozenset([mask_keys] if isinstance(mask_keys, str) else mask_keys)


def _masked(value: Any, words: frozenset[str], parents: tuple[int, ...]) -> Any:
    if not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return value
    if id(value) in parents or len(parents) >= _DEEPEST:
        return _CUT
    parents = (*parents, id(value))
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {
            key: MASK if is_sensitive(str(key), words) else _masked(item, words, parents)
            for key, item in value.items()
        }
    if isinstance(value, (set, frozenset)):
        return _masked_set(value, words, parents)
    items = [_masked(item, words, parents) for item in value]
    return tuple(items) if isinstance(value, tuple) else items


def _masked_set(value: Any, words: frozenset[str], parents: tuple[int, ...]) -> Any:
    """A set stays a set, unless an element had to become a dict or a list."""
    items = [_masked(item, words, parents) for item in value]
    try:
        return type(value)(items)
    except TypeError:
        return items


@lru_cache(maxsize=2048)
def is_sensitive(key: str, words: frozenset[str]) -> bool:
    """Whether ``key`` contains one of ``words``, in any spelling."""
    bare_key = _bare(key)
    return any(bare and bare in bare_key for bare in map(_bare, words))


def _bare(word: str) -> str:
    return re.sub(r"[\s_-]", "", word).lower()
