"""The values of a context: what is encoded, decoded and looked at, and when."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_saga.core.context.data import PartialValues, Values, values_of
from celery_saga.core.context.lazy import NotLoaded
from celery_saga.errors import UnserializableValue
from tests.core.test_codec import assert_same, text, values

#: A text that raises when it is decoded: where it is, nothing may look.
NEVER = "{"


class TestTexts:
    @given(st.dictionaries(text, values))
    def test_each_key_has_its_own_text(self, context: dict[str, Any]) -> None:
        texts = Values(context).texts()

        assert list(texts) == list(context)
        assert all(type(text) is str for text in texts.values())
        assert_same(dict(Values(texts=texts)), context)

    def test_any_mapping_is_taken(self) -> None:
        expected = {"order_id": "7", "paid": "true"}

        assert Values({"order_id": 7, "paid": True}).texts() == expected
        assert Values(MappingProxyType({"order_id": 7, "paid": True})).texts() == expected

    def test_text_may_come_as_bytes(self) -> None:
        found = Values(texts={"name": '"é"'.encode()})

        assert found == {"name": "é"}
        assert found.text("name") == '"é"'

    @pytest.mark.parametrize(
        ("context", "text"),
        [
            ({"a": 1, "order": {"lines": [{1}]}}, "context['order']['lines'][0]: a set cannot be"),
            ({"a": {1}}, "context['a']: a set cannot be stored; use a list"),
            ({1: 1}, "context[1]: an int cannot be stored as a key; use a plain str"),
            ({"\ud800": 1}, "context['\\ud800']: a str with lone surrogates"),
            (
                {"__type__": 1, "__value__": 2, "a": 3},
                "context: the keys '__type__' and '__value__'",
            ),
        ],
    )
    def test_what_cannot_be_stored_is_named(self, context: Mapping[Any, Any], text: str) -> None:
        with pytest.raises(UnserializableValue) as refused:
            Values(context).texts()

        assert str(refused.value).startswith(text)

    def test_one_marker_key_alone_is_data(self) -> None:
        context = {"__type__": "datetime", "a": 1}

        assert Values(texts=Values(context).texts()) == context

    def test_a_text_is_made_once(self) -> None:
        items = [1]
        found = Values({"items": items})
        assert found.text("items") == "[1]"

        items.append(2)

        assert found.changed({"other": 1}).text("items") == "[1]"

    def test_a_text_is_handed_on_unread(self) -> None:
        found = Values(texts={"a": NEVER}).changed({"b": 1})

        assert found.texts() == {"a": NEVER, "b": "1"}
        with pytest.raises(ValueError, match="Expecting"):
            found["a"]

    def test_a_missing_key_has_no_text(self) -> None:
        with pytest.raises(KeyError):
            Values({"a": 1}).text("b")

    def test_the_size_counts_all_texts(self) -> None:
        assert Values({"a": "xyz", "b": 1}).size == len('"xyz"') + 1


class TestChanges:
    def test_an_update_wins_and_keys_keep_their_place(self) -> None:
        before = Values({"a": 1, "b": 2, "c": 3})

        after = before.changed({"b": 20, "d": 4}, ["a"])

        assert list(after.items()) == [("b", 20), ("c", 3), ("d", 4)]
        assert before == {"a": 1, "b": 2, "c": 3}

    def test_the_difference(self) -> None:
        before = Values({"a": 1, "b": 2, "c": 3})

        texts, new, removed = before.changed({"b": 20, "d": 4}, ["a"]).since(before)

        assert (texts, new, removed) == ({"b": "20", "d": "4"}, ["d"], ["a"])

    def test_what_was_set_to_the_same_is_not_a_difference(self) -> None:
        before = Values(texts={"a": '{"x":1}'})
        update = Values({"a": {"x": 1}})
        update.texts()

        assert before.changed(update).since(before) == ({}, [], [])

    def test_plain_mappings_compare_by_their_objects(self) -> None:
        order = {"id": 1}
        before = Values({"order": order})

        assert values_of({"order": order}).since(before) == ({}, [], [])

    def test_texts_compare_whatever_they_came_as(self) -> None:
        before = Values(texts={"items": b"[1,2]"})

        assert Values(texts=Values({"items": [1, 2]}).texts()).since(before) == ({}, [], [])

    def test_a_difference_that_cannot_be_stored_is_named(self) -> None:
        with pytest.raises(UnserializableValue, match="context\\['a'\\]"):
            Values().changed({"a": {1}}).since(Values())


class TestParts:
    def test_what_was_read_is_there(self) -> None:
        part = PartialValues({"a": "1"}, ["b"])

        assert (part["a"], part.text("a"), part.get("b"), "b" in part) == (1, "1", None, False)

    @pytest.mark.parametrize(
        "look",
        [
            lambda part: part["c"],
            lambda part: part.get("c"),
            lambda part: "c" in part,
            lambda part: part.text("c"),
            len,
            list,
            dict,
            lambda part: part.texts(),
            lambda part: part == {"a": 1},
        ],
    )
    def test_what_was_not_read_is_not_missing(self, look: Any) -> None:
        with pytest.raises(NotLoaded):
            look(PartialValues({"a": "1"}, ["b"]))

    def test_changes_are_known(self) -> None:
        part = PartialValues({"a": "1"}, ["b"]).changed({"b": 2, "c": 3}, ["a"])

        assert (part["b"], part["c"], part.get("a"), "a" in part) == (2, 3, None, False)

    def test_a_key_comes_back(self) -> None:
        part = PartialValues({"a": "1"}).changed({}, ["a"]).changed({"a": 5})

        assert part["a"] == 5
        assert part.since(PartialValues({"a": "1"})) == ({"a": "5"}, [], [])

    def test_the_difference(self) -> None:
        before = PartialValues({"a": "1", "b": "2"}, ["x"])

        texts, new, removed = before.changed({"b": 20, "x": 4}, ["a", "y"]).since(before)

        assert (texts, new, sorted(removed)) == ({"b": "20", "x": "4"}, ["x"], ["a", "y"])
