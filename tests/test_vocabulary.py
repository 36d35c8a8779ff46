"""The project's words: none of the table's left column comes back."""

from __future__ import annotations

import pytest

from tests import vocabulary

COUNTED = {(area, vocabulary.short(word)): n for (area, word), n in vocabulary.counted().items()}
LIMITS = vocabulary.limits()


@pytest.mark.parametrize("area", sorted({area for area, _ in vocabulary.areas()}))
def test_words_do_not_come_back(area: str) -> None:
    more = {
        word: (n, LIMITS.get((area, word), 0))
        for (where, word), n in COUNTED.items()
        if where == area and n > LIMITS.get((area, word), 0)
    }
    assert not more, f"python -m tests.vocabulary {area} says where, and the term to use"


def test_the_limits_fall() -> None:
    high = {key: (n, COUNTED.get(key, 0)) for key, n in LIMITS.items() if n > COUNTED.get(key, 0)}
    assert not high, "python -m tests.vocabulary --write lowers them"


def test_parts_of_names_are_words() -> None:
    text = "def undo_it(): ...\nclass ToldTwice: ...\nheartbeat = 'undoubtedly'"
    assert [(number, word) for number, _, word in vocabulary.found_in(text)] == [
        (1, "undo"),
        (2, "Told"),
    ]
