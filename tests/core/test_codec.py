"""Every value comes back as it was, from a checkpoint and from a message, or is refused by path."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.serialization import dumps as kombu_dumps
from kombu.serialization import loads as kombu_loads

from celery_saga.core.context import codec
from celery_saga.core.context.codec import JSON
from celery_saga.core.context.saga_context import SagaContext
from celery_saga.errors import SagaError, UnserializableValue

PARIS = ZoneInfo("Europe/Paris")
UTC = timezone.utc


def through_codec(value: Any) -> Any:
    return JSON.loads(JSON.dumps(value))


def through_message(value: Any) -> Any:
    content_type, encoding, body = kombu_dumps(value, serializer="json")
    return kombu_loads(body.encode(), content_type, encoding)


def assert_same(back: Any, value: Any) -> None:
    """Equal, of exactly the same type, at every depth, in the same order, to the last digit."""
    assert type(back) is type(value)
    if isinstance(value, dict):
        assert list(back) == list(value)
        for key in value:
            assert type(key) is str
            assert_same(back[key], value[key])
    elif isinstance(value, list):
        assert len(back) == len(value)
        for back_item, item in zip(back, value, strict=True):
            assert_same(back_item, item)
    else:
        assert back == value
        if isinstance(value, (float, Decimal)):
            assert str(back) == str(value)
        if isinstance(value, (datetime, time)):
            assert back.utcoffset() == value.utcoffset()


text = st.text(st.characters(exclude_categories=["Cs"]))
offsets = st.integers(-86399, 86399).map(lambda seconds: timedelta(seconds=seconds))
fixed_zones = st.none() | st.just(UTC) | offsets.map(timezone)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**4300) + 1, max_value=10**4300 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    text,
    st.datetimes(timezones=fixed_zones),
    st.dates(),
    st.times(timezones=fixed_zones),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.binary(),
)
keys = text | st.sampled_from(["__type__", "__value__", "bytes", "__bytes__", "task", ""])


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    dicts = st.dictionaries(keys, children, max_size=5)
    return st.lists(children, max_size=5) | dicts.filter(
        lambda value: value.keys() != {"__type__", "__value__"}
    )


values = st.recursive(scalars, containers, max_leaves=20)


class TestRoundTrip:
    @given(values)
    def test_every_supported_value_comes_back_the_same(self, value: Any) -> None:
        assert_same(through_codec(value), value)
        assert_same(through_message(value), value)

    @given(values)
    def test_text_and_message_hold_the_same(self, value: Any) -> None:
        _, _, body = kombu_dumps(value, serializer="json")

        assert json.loads(JSON.dumps(value)) == json.loads(body)

    @pytest.mark.parametrize(
        "value",
        [
            -0.0,
            5e-324,
            1e308,
            2.0,
            2**53 + 1,
            -(10**4299),
            True,
            "",
            "\x00\u2028\U0001f600",
            b"",
            b"text",
            b"\xff\xfe",
            Decimal("-0"),
            Decimal("1.10"),
            Decimal("1E+5"),
            Decimal("Infinity"),
            Decimal("1E-999999"),
            datetime.min,
            datetime.max,
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))),
            datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2, seconds=5))),
            datetime(2024, 7, 1, 12, tzinfo=PARIS),
            datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")),
            date.min,
            date.max,
            time.max,
            time(1, tzinfo=UTC),
            time(1, tzinfo=ZoneInfo("UTC")),
            UUID(int=0),
            {},
            [],
            {"__type__": "datetime"},
            {"__value__": 1},
            {"__type__": "datetime", "__value__": "x", "more": 1},
            {"bytes": "x", "__bytes__": True},
            [[], {}, [[{"": []}]]],
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_values_on_the_edge(self, value: Any) -> None:
        assert_same(through_codec(value), value)
        assert_same(through_message(value), value)

    def test_the_text_is_compact_json(self) -> None:
        assert JSON.dumps({"a": [1, 2.5], "b": None}) == '{"a":[1,2.5],"b":null}'
        assert JSON.dumps(date(2024, 1, 2)) == '{"__type__":"date","__value__":"2024-01-02"}'

    def test_values_side_by_side_may_be_one_object(self) -> None:
        part = {"a": [1]}

        assert through_codec([part, part, {"again": part}]) == [part, part, {"again": part}]

    @given(st.datetimes(timezones=st.timezones()))
    def test_a_named_zone_comes_back_as_its_offset_at_that_moment(self, value: datetime) -> None:
        back = through_codec(value)

        assert back.replace(tzinfo=None) == value.replace(tzinfo=None)
        assert back.utcoffset() == value.utcoffset()
        assert type(back.tzinfo) is timezone

    @pytest.mark.parametrize("fold", [0, 1])
    def test_the_hour_that_a_zone_runs_through_twice_keeps_its_instant(self, fold: int) -> None:
        value = datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=PARIS)

        assert through_codec(value).timestamp() == value.timestamp()

    @pytest.mark.parametrize("value", [datetime(2024, 10, 27, 2, 30, fold=1), time(2, 30, fold=1)])
    def test_fold_is_not_kept(self, value: Any) -> None:
        assert through_codec(value) == value
        assert through_codec(value).fold == 0


Point = namedtuple("Point", "x y")


class Colour(Enum):
    RED = 1


class Level(IntEnum):
    LOW = 1


class Name(str):
    pass


class Moment(datetime):
    pass


@dataclasses.dataclass
class Order:
    id: int


class Schema:
    def model_dump(self) -> dict[str, int]:
        return {}


class Row:
    _meta = None


class BrokenZone(tzinfo):
    """A tzinfo as the base class leaves it: every method raises NotImplementedError."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return super().utcoffset(moment)

    def dst(self, moment: datetime | None) -> timedelta | None:
        return super().dst(moment)

    def tzname(self, moment: datetime | None) -> str | None:
        return super().tzname(moment)


REFUSED = [
    ((1, 2), "a tuple cannot be stored; use a list"),
    ({1}, "a set cannot be stored; use a list"),
    (frozenset(), "a frozenset cannot be stored; use a list"),
    ({}.keys(), "a dict_keys cannot be stored; use a list"),
    (iter([]), "a list_iterator cannot be stored; use list(value)"),
    ((n for n in ""), "a generator cannot be stored; use list(value)"),
    (Point(1, 2), "a Point cannot be stored; use a list"),
    (Colour.RED, "a Colour cannot be stored; use its .value"),
    (Level.LOW, "a Level cannot be stored; use its .value"),
    (Name("x"), "a Name cannot be stored; use a plain str"),
    (Moment(2024, 1, 1), "a Moment cannot be stored; use a plain datetime"),
    (OrderedDict(), "an OrderedDict cannot be stored; use a plain dict"),
    (defaultdict(int), "a defaultdict cannot be stored; use a plain dict"),
    (MappingProxyType({}), "a mappingproxy cannot be stored; use dict(value)"),
    (SagaContext(a=1), "a SagaContext cannot be stored; use dict(value)"),
    (bytearray(b"x"), "a bytearray cannot be stored; use bytes(value)"),
    (memoryview(b"x"), "a memoryview cannot be stored; use bytes(value)"),
    (timedelta(1), "a timedelta cannot be stored; use value.total_seconds()"),
    (Path("x"), f"a {type(Path('x')).__name__} cannot be stored; use str(value)"),
    (ValueError("x"), "a ValueError cannot be stored; use str(value)"),
    (Order(1), "an Order cannot be stored; use dataclasses.asdict(value)"),
    (Schema(), "a Schema cannot be stored; use value.model_dump()"),
    (Row(), "a Row cannot be stored; store its primary key"),
    (
        {}.items,
        "a builtin_function_or_method cannot be stored; store what it returns, not the call",
    ),
    (Order, "a type cannot be stored; store what it returns, not the callable"),
    (SimpleNamespace(), "a SimpleNamespace cannot be stored; use a dict of its data"),
    (Fraction(1, 2), "a Fraction cannot be stored; use float(value)"),
    (range(3), "a range cannot be stored; use list(value)"),
    (deque([1]), "a deque cannot be stored; use list(value)"),
    ({1: 2}.values(), "a dict_values cannot be stored; use list(value)"),
    (1j, "a complex cannot be stored; use a dict of its data"),
    (float("nan"), "the float nan cannot be stored, JSON has no such number; use None"),
    (float("inf"), "the float inf cannot be stored, JSON has no such number; use None"),
    (float("-inf"), "the float -inf cannot be stored, JSON has no such number; use None"),
    (Decimal("NaN"), "a Decimal that is not a number cannot be stored; use None"),
    (Decimal("sNaN"), "a Decimal that is not a number cannot be stored; use None"),
    (10**4300, "an int of more than 4300 digits cannot be stored; use hex(value)"),
    (-(10**4300), "an int of more than 4300 digits cannot be stored; use hex(value)"),
    ("\ud800", "a str with lone surrogates cannot be stored; use bytes, or replace them"),
    ("\ud83d\ude00", "a str with lone surrogates cannot be stored; use bytes, or replace them"),
    (
        time(1, tzinfo=PARIS),
        "a time cannot be stored in a time zone without an offset in whole seconds; ",
    ),
    (time(1, tzinfo=BrokenZone()), "a time cannot be stored in a time zone without an offset"),
    (
        datetime(2024, 1, 1, tzinfo=BrokenZone()),
        "a datetime cannot be stored in a time zone without",
    ),
    (
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
        "a datetime cannot be stored in a time zone without an offset in whole seconds; ",
    ),
    (time(1, tzinfo=timezone(timedelta(hours=1, microseconds=1))), "a time cannot be stored in"),
    ({"__type__": "datetime", "__value__": "x"}, "the keys '__type__' and '__value__' together"),
    ({"__type__": [], "__value__": 1}, "the keys '__type__' and '__value__' together cannot be"),
]
BAD_KEYS = [
    (1, "[1]", "an int"),
    (True, "[True]", "a bool"),
    (None, "[None]", "a NoneType"),
    (1.5, "[1.5]", "a float"),
    (b"k", "[b'k']", "a bytes"),
    ((1, 2), "[(1, 2)]", "a tuple"),
    (Name("k"), "['k']", "a Name"),
    (10**5000, "[int]", "an int"),
]


def refusal(value: Any, path: str = "context") -> str:
    """The text with which ``value`` is refused, by check and dumps alike."""
    with pytest.raises(UnserializableValue) as refused:
        codec.check(value, path)
    with pytest.raises(UnserializableValue) as refused_by_dumps:
        JSON.dumps(value, path)
    assert str(refused_by_dumps.value) == str(refused.value)
    return str(refused.value)


class TestRefusal:
    @pytest.mark.parametrize(("value", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
    def test_the_path_the_type_and_the_advice(self, value: Any, reason: str) -> None:
        assert refusal(value).startswith(f"context: {reason}")
        nested = {"order": {"ok": 1, "lines": [0, 1, value, 3]}, "after": 1}
        assert refusal(nested).startswith(f"context['order']['lines'][2]: {reason}")

    @pytest.mark.parametrize(
        ("key", "segment", "kind"), BAD_KEYS, ids=[name for _, name, _ in BAD_KEYS]
    )
    def test_a_key_that_is_not_a_str(self, key: Any, segment: str, kind: str) -> None:
        expected = f"{kind} cannot be stored as a key; use a plain str"

        assert refusal({key: 1}) == f"context{segment}: {expected}"
        assert refusal({"a": [{"b": 1, key: 1}]}) == f"context['a'][0]{segment}: {expected}"

    def test_a_key_with_lone_surrogates(self) -> None:
        assert refusal({"a": {"\ud800": 1}}).startswith("context['a']['\\ud800']: a str with lone")

    @given(
        st.lists(st.tuples(text, values) | st.tuples(st.integers(0, 3), values), max_size=8),
        # By index, because Hypothesis shows what it draws and the longest int has no repr.
        st.integers(0, len(REFUSED) - 1),
    )
    def test_the_path_is_exact_at_any_place(
        self, way: list[tuple[str | int, Any]], index: int
    ) -> None:
        value, reason = REFUSED[index]
        for key, sibling in reversed(way):
            if isinstance(key, str):
                value = {f"{key}-before": sibling, key: value, f"{key}-after": sibling}
            else:
                value = [*[sibling] * key, value, sibling]
        path = "root" + "".join(f"[{key!r}]" for key, _ in way)

        assert refusal(value, "root").startswith(f"{path}: {reason}")

    def test_the_path_of_a_value_without_a_name(self) -> None:
        assert refusal({1}, "").startswith("value: a set")
        assert refusal([{1}], "").startswith("value[0]: a set")

    def test_the_error_is_a_value_error_of_this_library(self) -> None:
        with pytest.raises(UnserializableValue) as refused:
            codec.check([{1}], "context['a']")

        assert isinstance(refused.value, SagaError)
        assert isinstance(refused.value, ValueError)
        assert refused.value.args == (
            "context['a'][0]",
            "a set cannot be stored",
            "use a list",
        )
        assert refused.value.__suppress_context__

    def test_a_refusal_does_not_show_the_value(self) -> None:
        assert "4111" not in refusal({"card": Name("4111")})


class TestDepthAndCycles:
    @pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
    def test_a_hundred_levels_pass_and_one_more_is_refused(
        self, wrap: Callable[[Any], Any]
    ) -> None:
        value: Any = 1
        for _ in range(codec.MAX_DEPTH):
            value = wrap(value)
        assert_same(through_codec(value), value)
        assert_same(through_message(value), value)

        assert "is nested too deep (more than 100 levels" in refusal(wrap(value))
        for _ in range(100_000):
            value = wrap(value)
        assert "is nested too deep" in refusal(value)

    def test_a_cycle_is_named_where_it_closes(self) -> None:
        cyclic_list: list[Any] = [1]
        cyclic_list.append({"back": cyclic_list})
        cyclic_dict: dict[str, Any] = {}
        cyclic_dict["self"] = cyclic_dict

        assert refusal(cyclic_list).startswith("context[1]['back']: contains itself; ")
        assert refusal(cyclic_dict).startswith("context['self']: contains itself; ")

    def test_a_stack_that_is_nearly_used_up_gives_the_same_error(self) -> None:
        value: Any = 1
        for _ in range(codec.MAX_DEPTH):
            value = [value]

        def call_at_depth(left: int) -> None:
            if left:
                call_at_depth(left - 1)
            else:
                codec.check(value, "context")

        with pytest.raises(UnserializableValue, match="than the call stack has room for"):
            call_at_depth(sys.getrecursionlimit() - len(inspect.stack(0)) - 50)

    @pytest.mark.skipif(
        not hasattr(sys, "set_int_max_str_digits"), reason="this Python has no int limit"
    )
    def test_a_process_with_a_lower_int_limit_refuses_too(self) -> None:
        before = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(640)
        try:
            with pytest.raises(UnserializableValue, match=r"^value: cannot be stored .*640"):
                JSON.dumps([10**700])
        finally:
            sys.set_int_max_str_digits(before)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "undefined",
        '{"__type__":"unknown","__value__":1}',
        '{"__type__":[],"__value__":1}',
        '{"__type__":"date","__value__":"never"}',
        '{"__type__":"datetime","__value__":1}',
        '{"__type__":"decimal","__value__":"x"}',
        '{"__type__":"uuid","__value__":1}',
        '{"__type__":"bytes","__value__":1}',
        "[" * 100_000,
        b"\xff",
        None,
    ],
    ids=lambda text: repr(text)[:40],
)
def test_text_of_another_origin_is_a_value_error(text: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        JSON.loads(text)
