"""What a reader of reprs and logs gets to see."""

from __future__ import annotations

from collections import namedtuple
from types import MappingProxyType
from typing import Any

import pytest

from celery_saga.core.context.masking import DEFAULT_MASK_KEYS, MASK, masked
from celery_saga.core.context.saga_context import SagaContext

Card = namedtuple("Card", "card_number holder")


@pytest.mark.parametrize("word", sorted(DEFAULT_MASK_KEYS))
def test_every_default_word_hides_its_value(word: str) -> None:
    assert masked({word: "x"}) == {word: MASK}


@pytest.mark.parametrize(
    "key",
    [
        "PASSWORD",
        "db_password",
        "passwordHash",
        "apiKey",
        "API-Key",
        "x-api-key",
        "api key",
        "apikey",
        "Authorization",
        "refreshToken",
        "cardNumber",
        b"password",
    ],
)
def test_the_spelling_of_a_key_makes_no_difference(key: Any) -> None:
    assert masked({key: "x"}) == {key: MASK}


@pytest.mark.parametrize(
    "key", ["author", "shipping", "card", "key", "order_id", "payment_method", "pass", "", 1, None]
)
def test_ordinary_keys_are_shown(key: Any) -> None:
    assert masked({key: "x"}) == {key: "x"}


@pytest.mark.parametrize("secret", ["x", 1, None, ["x"], {"a": "x"}])
def test_a_hidden_value_says_nothing_about_itself(secret: Any) -> None:
    assert masked({"token": secret}) == {"token": "***"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": {"b": {"pwd": 1, "c": 2}}}, {"a": {"b": {"pwd": MASK, "c": 2}}}),
        ([{"pwd": 1}], [{"pwd": MASK}]),
        (({"pwd": 1}, 2), ({"pwd": MASK}, 2)),
        ({"a": [({"pwd": 1},)]}, {"a": [({"pwd": MASK},)]}),
        (SagaContext(pwd=1, a=2), {"pwd": MASK, "a": 2}),
        (MappingProxyType({"pwd": 1}), {"pwd": MASK}),
        (Card("4111", "me"), {"card_number": MASK, "holder": "me"}),
        ({1, 2}, {1, 2}),
        (frozenset({1}), frozenset({1})),
        ({Card("4111", "me")}, [{"card_number": MASK, "holder": "me"}]),
        ("password", "password"),
        (None, None),
    ],
)
def test_every_kind_of_container_is_looked_into(value: Any, shown: Any) -> None:
    result = masked(value)

    assert result == shown
    assert type(result) is type(shown)


def test_the_value_itself_is_not_changed() -> None:
    value = {"card": {"cvv": "123"}, "lines": [{"token": "t"}]}

    masked(value)

    assert value == {"card": {"cvv": "123"}, "lines": [{"token": "t"}]}


@pytest.mark.parametrize("words", [["IBAN"], {"iban"}, ("x", "i_ban"), "iban"])
def test_the_words_can_be_chosen_and_replace_the_default_ones(words: Any) -> None:
    assert masked({"iban": 1, "password": 2}, words) == {"iban": MASK, "password": 2}


@pytest.mark.parametrize("words", [[], [""], ["_"]])
def test_no_words_hide_nothing(words: list[str]) -> None:
    assert masked({"password": 1}, words) == {"password": 1}


def test_a_value_inside_itself_is_cut() -> None:
    value: dict[str, Any] = {"token": 1}
    value["again"] = [value]

    assert masked(value) == {"token": MASK, "again": ["..."]}


def test_the_same_value_side_by_side_is_shown_twice() -> None:
    part = {"a": 1}

    assert masked([part, part]) == [{"a": 1}, {"a": 1}]


def test_deep_values_are_cut_and_never_shown_unmasked() -> None:
    value: Any = {"token": "secret"}
    for _ in range(5000):
        value = [value]

    shown = repr(masked(value))

    assert shown == "[" * 16 + "'...'" + "]" * 16
