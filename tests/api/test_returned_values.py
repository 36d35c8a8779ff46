"""What a step may return: what Celery's JSON serializer takes, as that brings it back."""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from kombu.utils import json as kombu_json

from celery_saga import Saga, SagaContext, SagaManager, UnserializableValue
from celery_saga.core.context.codec import MAX_DEPTH, as_returned
from celery_saga.core.context.data import returned


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    pass


class Day(date):
    pass


class Money:
    def __json__(self) -> Any:
        return {"amount": 5, "currency": "EUR"}


class Broken:
    def __json__(self) -> Any:
        raise RuntimeError("never")


@dataclass
class Order:
    id: int


Point = namedtuple("Point", "x y")
ID = UUID("12345678123456781234567812345678")
NOON = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)

#: What comes back as something else than it was.
CHANGED: dict[str, tuple[Any, Any]] = {
    "tuple": ((1, 2), [1, 2]),
    "no tuple": ((), []),
    "namedtuple": (Point(1, (2,)), [1, [2]]),
    "OrderedDict": (OrderedDict(b=1, a=(2,)), {"b": 1, "a": [2]}),
    "defaultdict": (defaultdict(list, a=[1]), {"a": [1]}),
    "Counter": (Counter("aab"), {"a": 2, "b": 1}),
    "str subclass": (Text("t"), "t"),
    "str enum": (Colour.RED, "red"),
    "int enum": (Level.HIGH, 3),
    "date subclass": (Day(2026, 11, 1), date(2026, 11, 1)),
    "with __json__": (Money(), {"amount": 5, "currency": "EUR"}),
    "context": (SagaContext(a=(1, 2)), {"a": [1, 2]}),
    "keys": ({1: "a", None: 2, False: 3, 1.5: 4}, {"1": "a", "null": 2, "false": 3, "1.5": 4}),
    "str enum as key": ({Colour.RED: Text("x")}, {"red": "x"}),
    "deep inside": (
        {"a": [{"b": (Colour.RED, NOON, b"\xff")}]},
        {"a": [{"b": ["red", NOON, b"\xff"]}]},
    ),
}

#: What comes back as it was.
EXACT = {
    "datetime": NOON,
    "date": date(2026, 11, 1),
    "Decimal": Decimal("1.10"),
    "UUID": ID,
    "bytes": b"\xff",
    "float": 1.0,
    "text": "ü",
    "nested": {"a": [1, {"b": None}], "c": [ID, Decimal(2)]},
}


def circle() -> list[Any]:
    found: list[Any] = [(1,)]
    found.append((found,))
    return found


def deep() -> Any:
    found: Any = ()
    for _ in range(MAX_DEPTH + 1):
        found = (found,)
    return found


#: What the serializer does not take, or what would not be the same thing after it; and where.
REFUSED: dict[str, tuple[Any, str]] = {
    "set": ({"a": (1, {2})}, r"^context\['k'\]\['a'\]\[1\]: a set cannot be stored"),
    "object": ((object(),), r"^context\['k'\]\[0\]: an object cannot be stored"),
    "timedelta": ((timedelta(1),), r"^context\['k'\]\[0\]: a timedelta .*total_seconds"),
    "dataclass": ((Order(1),), r"^context\['k'\]\[0\]: an Order .*asdict"),
    "mapping": ((MappingProxyType({}),), r"^context\['k'\]\[0\]: a mappingproxy .*dict\(value\)"),
    "nan": ((float("nan"),), r"^context\['k'\]\[0\]: the float nan"),
    "surrogate": (Text("\ud800"), r"^context\['k'\]: a str with lone surrogates"),
    "key": (OrderedDict({(1, 2): 3}), r"^context\['k'\]\[\(1, 2\)\]: a tuple cannot .* as a key"),
    "marker": (
        OrderedDict(__type__="bytes", __value__="x"),
        r"^context\['k'\]: the keys '__type__'",
    ),
    "broken __json__": ([Broken()], r"^context\['k'\]\[0\]: a Broken cannot be stored"),
    "circle": (circle(), r"^context\['k'\].*: contains itself"),
    "depth": (deep(), r"^context\['k'\].*: is nested too deep"),
}


def same(one: Any, other: Any) -> bool:
    """Equal and of the same types, inside too."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return not isinstance(one, list) or all(map(same, one, other))


@pytest.mark.parametrize("what", CHANGED)
def test_it_comes_back_as_from_celerys_serializer(what: str) -> None:
    value, expected = CHANGED[what]
    assert same(as_returned(value), expected)
    assert same(kombu_json.loads(kombu_json.dumps(value)), expected)
    assert same(Mapping.get(returned({"k": value}), "k"), expected)


@pytest.mark.parametrize("what", EXACT)
def test_what_travels_as_it_is_stays_as_it_is(what: str) -> None:
    assert same(as_returned(EXACT[what]), EXACT[what])
    assert same(as_returned((EXACT[what],)), [EXACT[what]])
    assert same(returned({"k": EXACT[what]})["k"], EXACT[what])


@pytest.mark.parametrize("what", REFUSED)
def test_the_rest_is_refused_with_its_place(what: str) -> None:
    value, text = REFUSED[what]
    with pytest.raises(UnserializableValue, match=text):
        returned({"k": value})


def test_a_key_of_the_result_itself() -> None:
    assert dict(returned({Colour.RED: (1,), 2: 3})) == {"red": [1], "2": 3}  # type: ignore[dict-item]
    with pytest.raises(UnserializableValue, match=r"^context\[\(1, 2\)\]: a tuple .* as a key"):
        returned({(1, 2): 3})  # type: ignore[dict-item]


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("returned", broker="memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, saga_store_url="memory://")
    SagaManager(app)
    yield app
    app.close()


RESULTS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "under the step's name": ((1, 2), {}, {"makes": [1, 2]}),
    "under a key": (Point(1, 2), {"returns": "point"}, {"point": [1, 2]}),
    "merged": (OrderedDict(a=(1,), b=Colour.RED), {}, {"a": [1], "b": "red"}),
    "merged, with odd keys": ({Colour.RED: 1, 2: 3}, {}, {"red": 1, "2": 3}),
    "merged, no dict": (MappingProxyType({"a": (1,)}), {}, {"a": [1]}),
    "dropped": (object(), {"returns": False}, {}),
}


@pytest.mark.parametrize("what", RESULTS)
def test_a_step_may_return_it(app: Celery, what: str) -> None:
    value, options, context = RESULTS[what]

    @app.task(name="returned.makes", shared=False)
    def makes() -> Any:
        return value

    saga = Saga("returned", app=app)
    saga.local_step(makes, read_only=True, **options)
    result = saga.commit().delay()
    assert result.status.value == "COMPLETED"
    assert same(dict(result.context), context)


def test_a_function_may_put_it_into_the_context(app: Celery) -> None:
    @app.task(name="returned.puts", shared=False)
    def puts(context: SagaContext) -> None:
        context.pair = (1, 2)
        context["items"] = OrderedDict(a=Colour.RED)

    saga = Saga("puts", app=app)
    saga.local_step(puts, read_only=True)
    result = saga.commit().delay()
    assert same(dict(result.context), {"pair": [1, 2], "items": {"a": "red"}})


@pytest.mark.parametrize("options", [{}, {"returns": "kept"}, {"returns": False}])
def test_a_compensation_gets_it_as_it_would_come_back(app: Celery, options: dict[str, Any]) -> None:
    seen: list[Any] = []

    @app.task(name="returned.makes", shared=False)
    def makes() -> Any:
        return {"pair": (1, 2), Colour.RED: Text("x"), "handle": 1}

    @app.task(name="returned.compensates", shared=False)
    def compensates(pair: Any, red: Any) -> None:
        seen.extend((pair, red))

    @app.task(name="returned.fails", shared=False)
    def fails() -> None:
        raise LookupError("no")

    saga = Saga("returned", app=app)
    saga.local_step(makes, **options).on_failure(compensates)
    saga.local_step(fails, read_only=True)
    assert saga.commit().delay().status.value == "COMPENSATED"
    assert same(seen, [[1, 2], "x"])
