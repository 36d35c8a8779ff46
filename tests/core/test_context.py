"""SagaContext: what the Minos framework's class does, plus the corrections of its defects."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping, MutableMapping
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.serialization import dumps as kombu_dumps
from kombu.serialization import loads as kombu_loads

from celery_saga.core.context.data import Values
from celery_saga.core.context.saga_context import SagaContext

METHOD_NAMES = sorted(name for name in vars(MutableMapping) | vars(Mapping) if name[0] != "_")

# Names that other containers keep for themselves.
ORDINARY_NAMES = [
    "self",
    "other",
    "key",
    "default",
    "fields",
    "data",
    "status",
    "copy",
    "id",
    "uuid",
    "version",
    "priority",
    "order",
    "name",
    "cls",
    "args",
    "kwargs",
]


class Model:
    """Any object of the user."""


def through_message(context: SagaContext) -> SagaContext:
    content_type, encoding, body = kombu_dumps(context, serializer="json")
    return SagaContext(**kombu_loads(body, content_type, encoding))


def through_checkpoint(context: SagaContext) -> SagaContext:
    return SagaContext(**Values(texts=Values(context).texts()))


class TestAttributes:
    @pytest.mark.parametrize("value", [1, "text", 99.99, None, [1], {"a": 1}, Model()])
    def test_a_keyword_is_readable_as_attribute_whatever_its_type(self, value: Any) -> None:
        context = SagaContext(one=value)

        assert context.one == context["one"] == value
        assert type(context.one) is type(value)

    def test_assigning_an_attribute_creates_the_key(self) -> None:
        context = SagaContext()

        context.one = 1

        assert context.one == 1
        assert context == SagaContext(one=1)

    def test_attributes_and_items_are_one_store(self) -> None:
        context = SagaContext(one=1)

        context["two"] = 2
        context.one = 10

        assert (context["one"], context.two) == (10, 2)

    def test_deleting_an_attribute_removes_the_key(self) -> None:
        context = SagaContext(one=1, two=2)

        del context.one

        assert "one" not in context
        assert list(context) == ["two"]

    @pytest.mark.parametrize("name", ["missing", "_missing"])
    def test_deleting_a_missing_attribute_is_an_attribute_error(self, name: str) -> None:
        context = SagaContext(one=1)

        with pytest.raises(AttributeError, match=name):
            delattr(context, name)
        assert context == SagaContext(one=1)

    def test_a_missing_attribute_is_an_attribute_error(self) -> None:
        context = SagaContext()

        with pytest.raises(
            AttributeError, match="'SagaContext' object has no attribute 'discount'"
        ):
            _ = context.discount
        assert not hasattr(context, "discount")
        assert getattr(context, "discount", 0.0) == 0.0

    def test_a_key_may_change_its_type(self) -> None:
        context = SagaContext(one=1)

        context.one = ["now", "a", "list"]

        assert context == SagaContext(one=["now", "a", "list"])


class TestNames:
    @pytest.mark.parametrize("name", METHOD_NAMES)
    def test_the_name_of_a_method_is_a_key_like_any_other(self, name: str) -> None:
        context = SagaContext()
        assert name not in context

        setattr(context, name, [1])

        assert context[name] == [1]
        assert callable(getattr(context, name))
        assert context == SagaContext(**{name: [1]})

        delattr(context, name)
        assert name not in context
        assert callable(getattr(context, name))

        context[name] = 2
        assert dict(context) == {name: 2}

    def test_the_method_names_are_the_nine_of_a_mutable_mapping(self) -> None:
        public = [name for name in dir(SagaContext()) if not name.startswith("_")]

        assert public == METHOD_NAMES
        assert len(public) == 9

    @pytest.mark.parametrize("name", ORDINARY_NAMES)
    def test_every_other_name_works_in_all_four_ways(self, name: str) -> None:
        built = SagaContext(**{name: 1})
        updated = SagaContext()
        updated.update(**{name: 1})
        by_attribute = SagaContext()
        setattr(by_attribute, name, 1)

        assert built == updated == by_attribute == {name: 1}
        assert getattr(built, name) == built[name] == 1

    def test_update_stores_the_names_of_its_own_parameters(self) -> None:
        context = SagaContext()

        context.update(other=1, self=2)

        assert dict(context) == {"other": 1, "self": 2}

    @pytest.mark.parametrize("key", ["", "two words", "class", "a.b", "ключ", "1st"])
    def test_a_key_need_not_be_an_identifier(self, key: str) -> None:
        context = SagaContext(**{key: 1})

        assert context[key] == 1
        assert eval(repr(context)) == context

    def test_an_attribute_with_an_underscore_is_private(self) -> None:
        context = SagaContext(one=1)

        context._cache = "mine"

        assert context._cache == "mine"
        assert "_cache" not in context
        assert len(context) == 1
        assert dict(context) == {"one": 1}
        assert "mine" not in repr(context)
        assert context == SagaContext(one=1)
        assert through_message(context) == through_checkpoint(context) == {"one": 1}
        assert not hasattr(copy.deepcopy(context), "_cache")

        del context._cache
        with pytest.raises(AttributeError):
            _ = context._cache

    def test_an_item_with_an_underscore_is_data_and_no_attribute(self) -> None:
        context = SagaContext(_x=1)
        context["_y"] = 2

        assert dict(context) == {"_x": 1, "_y": 2}
        assert not hasattr(context, "_x")
        assert not hasattr(context, "_y")

    @pytest.mark.parametrize("key", [1, None, b"bytes", ("a",), 1.5])
    def test_a_key_that_is_not_a_str_is_refused_by_name(self, key: Any) -> None:
        context = SagaContext(one=1)

        with pytest.raises(TypeError, match=rf"not {type(key).__name__}: "):
            context[key] = 1
        with pytest.raises(TypeError, match=rf"not {type(key).__name__}: "):
            context.update({"two": 2, key: 1})
        with pytest.raises(TypeError, match=rf"not {type(key).__name__}: "):
            context.setdefault(key, 1)
        assert context == SagaContext(one=1), "a refused update stores nothing"

    def test_a_str_enum_key_becomes_the_str_that_it_is(self) -> None:
        class Field(str, Enum):
            ORDER = "order_id"

        context = SagaContext()
        context[Field.ORDER] = 7

        assert context[Field.ORDER] == context.order_id == 7
        assert [type(key) for key in context] == [str]

    def test_a_positional_argument_is_refused(self) -> None:
        with pytest.raises(TypeError, match="positional"):
            SagaContext({"one": 1})  # type: ignore[call-arg]


class TestMapping:
    def test_it_is_a_mutable_mapping(self) -> None:
        assert isinstance(SagaContext(), MutableMapping)

    @pytest.mark.parametrize("key", ["missing", "_missing", 1])
    def test_a_missing_item_is_a_key_error(self, key: Any) -> None:
        context = SagaContext(one=1)

        with pytest.raises(KeyError):
            _ = context[key]
        with pytest.raises(KeyError):
            del context[key]

    def test_deleting_an_item_removes_it(self) -> None:
        context = SagaContext(one=1, two=2)

        del context["one"]

        assert context == SagaContext(two=2)
        assert not hasattr(context, "one")

    def test_setting_items_equals_building_with_keywords(self) -> None:
        context = SagaContext()

        context["one"] = 1
        context["two"] = [2]

        assert context == SagaContext(one=1, two=[2])

    def test_contains_knows_data_keys_only(self) -> None:
        context = SagaContext(order_id=1)

        assert "order_id" in context
        assert "items" not in context
        assert "__init__" not in context
        assert 1 not in context  # type: ignore[comparison-overlap]

    def test_the_views_agree_and_are_live(self) -> None:
        context = SagaContext(one=1, two=2)
        keys, values, items = context.keys(), context.values(), context.items()

        context.three = 3

        assert list(context) == list(keys) == ["one", "two", "three"]
        assert list(values) == [1, 2, 3]
        assert list(items) == list(zip(keys, values, strict=True))
        assert list(reversed(context)) == ["three", "two", "one"]
        assert len(context) == 3

    def test_order_is_that_of_the_first_setting(self) -> None:
        context = SagaContext(one=1, two=2, three=3)

        context.one = 10
        assert list(context) == ["one", "two", "three"]

        del context.one
        context.one = 1
        assert list(context) == ["two", "three", "one"]

    def test_get(self) -> None:
        context = SagaContext(one=1)

        assert context.get("one", 5) == 1
        assert context.get("missing") is None
        assert context.get("missing", 5) == context.get("missing", default=5) == 5

    @pytest.mark.parametrize(
        ("update", "expected"),
        [
            (lambda c: c.update({"a": 2, "b": 3}), {"a": 2, "b": 3}),
            (lambda c: c.update(SagaContext(a=2)), {"a": 2}),
            (lambda c: c.update([("a", 2)]), {"a": 2}),
            (lambda c: c.update(b=3), {"a": 1, "b": 3}),
            (lambda c: c.update({"a": 2, "b": 2}, b=3), {"a": 2, "b": 3}),
            (lambda c: c.update(None), {"a": 1}),
            (lambda c: c.update(None, b=3), {"a": 1, "b": 3}),
            (lambda c: c.update(), {"a": 1}),
        ],
        ids=["mapping", "context", "pairs", "keywords", "keyword wins", "None", "None+", "nothing"],
    )
    def test_update(self, update: Callable[[SagaContext], None], expected: dict[str, Any]) -> None:
        context = SagaContext(a=1)

        update(context)

        assert context == expected

    def test_pop_returns_and_removes(self) -> None:
        context = SagaContext(one=1)

        assert context.pop("one", 5) == 1
        assert context == SagaContext()

    def test_pop_of_a_missing_key_gives_the_default_which_is_none(self) -> None:
        context = SagaContext()

        assert context.pop("missing") is None
        assert context.pop("missing", 5) == context.pop("missing", default=5) == 5

    def test_setdefault_gives_the_stored_object(self) -> None:
        context = SagaContext(one=1)

        assert context.setdefault("one", 2) == 1
        assert context.setdefault("nothing") is None
        context.setdefault("seen", []).append("x")
        context.setdefault("seen", []).append("y")

        assert context == {"one": 1, "nothing": None, "seen": ["x", "y"]}

    def test_popitem(self) -> None:
        context = SagaContext(one=1)

        assert context.popitem() == ("one", 1)
        with pytest.raises(KeyError):
            context.popitem()

    def test_clear_empties_and_empty_is_falsy(self) -> None:
        context = SagaContext(one=1)
        assert context

        context.clear()

        assert not context
        assert len(context) == 0

    def test_equality_ignores_order_and_sees_every_value(self) -> None:
        assert SagaContext(a=1, b=2) == SagaContext(b=2, a=1)
        assert SagaContext(a=1, b=2) != SagaContext(a=1, b=3)
        assert SagaContext(a=1) != SagaContext(a=1, b=None)

    def test_it_equals_a_mapping_with_the_same_content(self) -> None:
        plain = {"a": 1}

        assert SagaContext(a=1) == plain
        assert plain == SagaContext(a=1)
        assert SagaContext(a=1) != {"a": 2}
        assert SagaContext() != []

    def test_it_has_no_hash(self) -> None:
        with pytest.raises(TypeError, match="unhashable"):
            hash(SagaContext())


class TestNestedValues:
    def test_nested_values_are_plain_and_read_by_indexing(self) -> None:
        context = SagaContext()
        context.customer = {"id": "c1", "tier": "premium"}
        context.order = {"lines": [{"sku": "A", "price": 25.00}, {"sku": "B", "price": 49.99}]}

        assert context.customer["tier"] == "premium"
        assert context.order["lines"][1]["price"] == 49.99
        assert type(context.order) is dict
        assert type(context.order["lines"]) is list

    def test_a_change_in_place_is_seen_by_the_next_read(self) -> None:
        context = SagaContext(order={"lines": []})

        context.order["lines"].append(1)
        context["order"]["total"] = 5

        assert context.order == {"lines": [1], "total": 5}

    @pytest.mark.parametrize(
        "store",
        [
            lambda value: SagaContext(order=value),
            lambda value: _with(lambda c: c.__setitem__("order", value)),
            lambda value: _with(lambda c: c.__setattr__("order", value)),
            lambda value: _with(lambda c: c.update({"order": value})),
            lambda value: _with(lambda c: c.setdefault("order", value)),
        ],
        ids=["init", "item", "attribute", "update", "setdefault"],
    )
    def test_containers_are_copied_when_set(self, store: Callable[[Any], SagaContext]) -> None:
        original: dict[str, Any] = {"lines": [{"sku": "A"}]}
        context = store(original)

        original["lines"][0]["sku"] = "changed outside"
        original["lines"].append("changed outside")
        assert context.order == {"lines": [{"sku": "A"}]}

        context.order["lines"].clear()
        assert len(original["lines"]) == 2

    def test_setting_copes_with_cycles_and_depth(self) -> None:
        cycle: list[Any] = [1]
        cycle.append(cycle)
        deep: list[Any] = []
        for _ in range(5000):
            deep = [deep]

        context = SagaContext(cycle=cycle, deep=deep)

        assert context.cycle is not cycle
        assert context.cycle[1] is context.cycle
        assert "..." in repr(context)

    def test_dict_gives_a_snapshot_that_json_accepts(self) -> None:
        context = SagaContext(step_count=0, data={"key": "value"})

        snapshot = dict(context)
        context.step_count = 1
        context.extra = True

        assert json.loads(json.dumps(snapshot)) == {"step_count": 0, "data": {"key": "value"}}


def _with(change: Callable[[SagaContext], Any]) -> SagaContext:
    context = SagaContext()
    change(context)
    return context


class TestCopies:
    @pytest.mark.parametrize(
        "duplicate",
        [
            lambda context: SagaContext(**context),
            copy.copy,
            copy.deepcopy,
            *(
                lambda context, protocol=protocol: pickle.loads(pickle.dumps(context, protocol))
                for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
            ),
            through_message,
            through_checkpoint,
        ],
    )
    @pytest.mark.parametrize("context", [SagaContext(), SagaContext(a=1, items=[{"b": 2.5}])])
    def test_every_way_to_copy_gives_an_equal_and_separate_context(
        self, duplicate: Callable[[SagaContext], SagaContext], context: SagaContext
    ) -> None:
        twin = duplicate(context)

        assert type(twin) is SagaContext
        assert twin == context
        assert list(twin) == list(context)
        twin.added = True
        assert "added" not in context

    def test_copy_is_shallow_and_deepcopy_is_deep(self) -> None:
        context = SagaContext(lines=[1])

        shallow, deep = copy.copy(context), copy.deepcopy(context)
        context.lines.append(2)

        assert shallow.lines == [1, 2]
        assert deep.lines == [1]

    def test_a_subclass_stays_one(self) -> None:
        assert type(copy.copy(OrderContext(a=1))) is OrderContext
        assert type(pickle.loads(pickle.dumps(OrderContext(a=1)))) is OrderContext
        assert repr(OrderContext(a=1)) == "OrderContext(a=1)"

    def test_deepcopy_of_a_context_that_holds_itself(self) -> None:
        context = SagaContext(box=[])
        context.box.append(context)

        twin = copy.deepcopy(context)

        assert twin.box[0] is twin

    @pytest.mark.parametrize("hop", [through_message, through_checkpoint])
    def test_values_keep_their_type_on_every_hop(self, hop: Any) -> None:
        context = SagaContext(
            process_id="p1",
            data={"prices": [99.99, 25.00, 49.99, 3], "whole": 2.0},
            step_count=0,
            exact=Decimal("1.10"),
        )

        twin = hop(hop(context))

        assert twin == context
        assert [type(price) for price in twin.data["prices"]] == [float, float, float, int]
        assert type(twin.data["whole"]) is float
        assert type(twin.step_count) is int
        assert str(twin.exact) == "1.10"

    @given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()))
    def test_any_keys_survive_every_hop(self, values: dict[str, int]) -> None:
        context = SagaContext(**values)

        assert through_message(context) == through_checkpoint(context) == context == values


class OrderContext(SagaContext):
    """A subclass of the user."""


class TestRepr:
    def test_it_reads_like_the_call_that_builds_it(self) -> None:
        assert repr(SagaContext()) == "SagaContext()"
        assert repr(SagaContext(a=1, b="x")) == "SagaContext(a=1, b='x')"

    def test_keys_that_are_no_names_stand_in_a_dict(self) -> None:
        context = SagaContext(a=1, **{"two words": 2, "class": 3})

        assert repr(context) == "SagaContext(a=1, **{'two words': 2, 'class': 3})"

    def test_secrets_are_hidden_at_every_depth(self) -> None:
        context = SagaContext(
            payment_token="tok-1", card=[{"card_number": "4111"}], **{"api key": "key-1"}
        )

        assert repr(context) == (
            "SagaContext(payment_token='***', card=[{'card_number': '***'}], **{'api key': '***'})"
        )
        assert context.payment_token == "tok-1"

    def test_a_context_that_holds_itself_has_one(self) -> None:
        context = SagaContext()
        context.me = context

        assert repr(context) == "SagaContext(me={'me': '...'})"

    def test_a_context_inside_an_object_that_it_holds_has_one(self) -> None:
        context = SagaContext()
        context.owner = SimpleNamespace(context=context)

        assert repr(context) == "SagaContext(owner=namespace(context=SagaContext(...)))"


class TestAsTheSamplesUseIt:
    """The uses of a context that code written for the Minos framework is made of."""

    def test_a_validating_step(self) -> None:
        def validate(context: SagaContext) -> SagaContext:
            if not context.get("total") or context.total <= 0:
                raise ValueError("no total")
            context.validated = True
            return context

        assert validate(SagaContext(total=99.99)) == {"total": 99.99, "validated": True}
        with pytest.raises(ValueError, match="no total"):
            validate(SagaContext())

    def test_a_schema_check_by_type(self) -> None:
        schema: dict[str, Any] = {"order_id": (str, int), "total": (int, float), "items": list}
        context = through_message(SagaContext(order_id=1, total=9.99, items=[1]))

        assert all(isinstance(context[key], types) for key, types in schema.items())

    def test_a_factory_that_extends_a_context(self) -> None:
        order = SagaContext(order_id="o1", status="pending", items=[{"price": 2.5, "quantity": 2}])

        order.update(payment_method="card", billing_address="here")

        assert list(order) == ["order_id", "status", "items", "payment_method", "billing_address"]
        assert sum(line["price"] * line["quantity"] for line in order["items"]) == 5.0

    def test_a_choice_by_nested_data(self) -> None:
        def choose(context: SagaContext) -> str:
            if context.customer.get("tier") == "premium":
                return "express"
            return "standard" if context.order.get("total", 0) > 100 else "basic"

        assert choose(SagaContext(customer={"tier": "premium"})) == "express"
        assert choose(SagaContext(customer={}, order={"total": 101})) == "standard"
        assert choose(SagaContext(customer={}, order={})) == "basic"

    def test_a_log_of_all_pairs(self) -> None:
        context = SagaContext(order_id=1, items=["A"])

        assert [f"{key}: {value}" for key, value in context.items()] == [
            "order_id: 1",
            "items: ['A']",
        ]
