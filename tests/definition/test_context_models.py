"""Models of contexts: what they take, what they make of it, and what they say of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator, model_validator

from celery_saga import ContextInvalid, DefinitionError, Saga
from celery_saga.definition.contexts import ContextModel, model_of

OrderId = NewType("OrderId", int)


class Level(Enum):
    HIGH = "high"


@dataclass
class Line:
    sku: str
    quantity: int = 1


@dataclass
class Order:
    order_id: OrderId
    total: float
    currency: str = "EUR"
    payment_id: str | None = None
    lines: list[Line] = field(default_factory=list)


class PLine(BaseModel):
    sku: str
    quantity: int = 1


class POrder(BaseModel):
    order_id: int
    total: float
    currency: str = "EUR"
    payment_id: str | None = None
    lines: list[PLine] = []


def model(cls: Any) -> ContextModel:
    found = model_of("test", cls)
    assert found is not None
    return found


BOTH = pytest.mark.parametrize("cls", [Order, POrder], ids=["dataclass", "pydantic"])


@BOTH
class TestStart:
    def test_defaults_are_there_and_none_is_not_there_yet(self, cls: Any) -> None:
        values, given = model(cls).started({"order_id": 7, "total": 9.5})
        assert values == {"order_id": 7, "total": 9.5, "currency": "EUR", "lines": []}
        assert given == {"order_id", "total"}

    def test_none_that_is_given_is_there(self, cls: Any) -> None:
        values, given = model(cls).started({"order_id": 7, "total": 1.0, "payment_id": None})
        assert "payment_id" in values
        assert values["payment_id"] is None
        assert "payment_id" in given

    def test_an_instance(self, cls: Any) -> None:
        values, _ = model(cls).started(cls(order_id=7, total=9.5, lines=[{"sku": "A"}]))
        assert values["lines"] in ([{"sku": "A"}], [{"sku": "A", "quantity": 1}])
        assert "payment_id" not in values or values["payment_id"] is None

    def test_nested_data(self, cls: Any) -> None:
        values, _ = model(cls).started({"order_id": 7, "total": 1, "lines": [{"sku": "A"}]})
        assert values["lines"] == [{"sku": "A", "quantity": 1}]
        assert type(values["total"]) is float

    @pytest.mark.parametrize(
        ("context", "field"),
        [
            ({"total": 9.5}, "order_id"),
            ({"order_id": 7}, "total"),
            ({"order_id": "seven", "total": 9.5}, "order_id"),
            ({"order_id": None, "total": 9.5}, "order_id"),
            ({"order_id": 7, "total": "much"}, "total"),
            ({"order_id": 7, "total": 9.5, "payment_id": 5}, "payment_id"),
            ({"order_id": 7, "total": 9.5, "lines": {"a": 1}}, "lines"),
            ({"order_id": 7, "total": 9.5, "lines": [{"sku": 1}]}, "lines: at 0.sku"),
            ({"order_id": 7, "total": 9.5, "lines": [{"quantity": 1}]}, "lines: at 0"),
        ],
    )
    def test_what_does_not_fit_is_named(self, cls: Any, context: Any, field: str) -> None:
        with pytest.raises(ContextInvalid) as caught:
            model(cls).started(context)
        text = str(caught.value)
        assert text.startswith(f"the context does not fit {__name__}.{cls.__name__}: {field}")
        assert "seven" not in text, "a value may be a secret"
        assert "much" not in text

    def test_all_problems_are_named(self, cls: Any) -> None:
        with pytest.raises(ContextInvalid, match=r"order_id: .*; total: "):
            model(cls).started({"order_id": "x", "total": "y"})


@BOTH
class TestAfterAStep:
    BEFORE: Mapping[str, Any] = {"order_id": 7, "total": 9.5, "currency": "EUR", "note": 1}

    def test_it_is_kept_as_the_model_reads_it(self, cls: Any) -> None:
        found = model(cls).updated(self.BEFORE, {"total": 3, "payment_id": "p"})
        assert found == {"total": 3.0, "payment_id": "p"}
        assert type(found["total"]) is float

    def test_other_keys_are_free(self, cls: Any) -> None:
        update = {"note": object, "shipped": [1]}
        assert model(cls).updated(self.BEFORE, update) == update

    def test_what_does_not_fit(self, cls: Any) -> None:
        with pytest.raises(ContextInvalid, match="payment_id: "):
            model(cls).updated(self.BEFORE, {"payment_id": 5})

    def test_a_key_that_is_not_there_yet_is_not_a_mistake_of_the_step(self, cls: Any) -> None:
        assert model(cls).updated({"order_id": 7}, {"payment_id": "p"}) == {"payment_id": "p"}

    def test_what_others_have_written_is_not_a_mistake_of_the_step(self, cls: Any) -> None:
        before = {**self.BEFORE, "currency": 5}
        assert model(cls).updated(before, {"payment_id": "p"}) == {"payment_id": "p"}

    def test_a_required_key_is_removed(self, cls: Any) -> None:
        with pytest.raises(ContextInvalid, match="total: "):
            model(cls).updated(self.BEFORE, {}, ["total"])
        assert model(cls).updated(self.BEFORE, {}, ["currency"]) == {}


@BOTH
class TestInstances:
    def test_of_a_context_with_other_keys(self, cls: Any) -> None:
        found = model(cls).instance({"order_id": 7, "total": 9.5, "note": 1})
        assert isinstance(found, cls)
        assert (found.order_id, found.payment_id) == (7, None)

    def test_what_was_changed_is_written_and_the_rest_stays(self, cls: Any) -> None:
        before = {"order_id": 7, "total": 9.5, "note": 1}
        found = model(cls).instance(before)
        found.payment_id = "p"
        after = model(cls).after(before, found)
        assert after == {**before, "payment_id": "p", "currency": "EUR", "lines": []}

    def test_none_is_written_over_a_value(self, cls: Any) -> None:
        before = {"order_id": 7, "total": 9.5, "payment_id": "p"}
        found = model(cls).instance(before)
        found.payment_id = None
        assert model(cls).after(before, found)["payment_id"] is None


@dataclass
class Kinds:
    day: date = date(2026, 1, 1)
    when: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)
    price: Decimal = Decimal(1)
    key: UUID | None = None
    blob: bytes = b""
    flag: bool = False
    number: int = 0
    ratio: float = 0.0
    level: Level = Level.HIGH
    pair: tuple[int, str] = (1, "a")
    many: tuple[int, ...] = ()
    tags: frozenset[str] = frozenset()
    by_name: dict[str, int] = field(default_factory=dict)
    any_list: list[Any] = field(default_factory=list)
    seq: Sequence[int] = ()
    mapping: Mapping[str, Line] = field(default_factory=dict)
    mode: Literal["fast", "slow"] = "fast"
    either: int | str | None = None
    noted: Annotated[int, "positive"] = 1
    bare: list = field(default_factory=list)  # type: ignore[type-arg]
    anything: Any = None


class TestAnnotations:
    """Which values an annotation of a dataclass takes, and what they are in the context."""

    @pytest.mark.parametrize(
        ("name", "value", "kept"),
        [
            ("day", date(2026, 2, 2), ...), ("when", datetime(2026, 2, 2), ...),
            ("price", Decimal("1.5"), ...), ("key", UUID(int=2), ...), ("blob", b"x", ...),
            ("flag", True, ...), ("number", 5, ...), ("ratio", 5, 5.0), ("ratio", 0.5, ...),
            ("level", "high", "high"), ("level", Level.HIGH, "high"),
            ("pair", [2, "b"], [2, "b"]), ("pair", (2, "b"), [2, "b"]), ("many", [1, 2], [1, 2]),
            ("tags", ["a"], ["a"]), ("by_name", {"a": 1}, ...), ("any_list", [1, "x"], ...),
            ("seq", [1], ...), ("mapping", {"x": {"sku": "A"}}, {"x": {"sku": "A", "quantity": 1}}),
            ("mode", "slow", ...), ("either", "x", ...), ("either", 5, ...), ("either", None, None),
            ("noted", 3, ...), ("bare", [1, "x"], ...), ("anything", {"a": [1]}, ...),
        ],
    )  # fmt: skip
    def test_taken(self, name: str, value: Any, kept: Any) -> None:
        values, _ = model(Kinds).started({name: value})
        assert values[name] == (value if kept is ... else kept)
        assert type(values[name]) is type(value if kept is ... else kept)

    @pytest.mark.parametrize(
        ("name", "value", "text"),
        [
            ("day", "2026-01-01", "expected date, found str"), ("flag", 1, "expected bool"),
            ("number", True, "expected int, found bool"), ("number", 1.0, "expected int"),
            ("number", "1", "expected int, found str"), ("ratio", True, "expected float"),
            ("level", "low", "expected Level"), ("pair", [1], "expected tuple"),
            ("pair", [1, 2], "at 1: expected str"), ("many", [1, "x"], "at 1: expected int"),
            ("tags", [1], "at 0: expected str"), ("by_name", {"a": "x"}, "at a: expected int"),
            ("by_name", [1], "expected dict"), ("mapping", {"x": {"quantity": 1}}, "at x: "),
            ("mode", "other", "expected Literal"), ("either", 1.5, "found float"),
            ("noted", "x", "expected int"), ("bare", 5, "expected list"), ("blob", "x", "bytes"),
        ],
    )  # fmt: skip
    def test_refused(self, name: str, value: Any, text: str) -> None:
        with pytest.raises(ContextInvalid, match=f"{name}: .*{text}"):
            model(Kinds).started({name: value})


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")
    order_id: int = Field(alias="orderId")
    level: Level = Level.HIGH
    tags: set[str] = set()


class Checked(BaseModel):
    low: int
    high: int

    @field_validator("low")
    @classmethod
    def positive(cls, value: int) -> int:
        if value < 0:
            raise ValueError("below zero")
        return value

    @model_validator(mode="after")
    def ordered(self) -> Checked:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class TestPydantic:
    @pytest.mark.parametrize("key", ["orderId", "order_id"])
    def test_keys_are_the_names_of_fields(self, key: str) -> None:
        values, given = model(Aliased).started({key: 7})
        assert values == {"order_id": 7, "level": "high", "tags": []}
        assert given == {"order_id"}
        assert model(Aliased).instance(values).order_id == 7

    def test_forbidden_keys(self) -> None:
        with pytest.raises(ContextInvalid, match=r"typo: Extra inputs are not permitted"):
            model(Aliased).started({"order_id": 7, "typo": 1})
        with pytest.raises(ContextInvalid, match="typo: "):
            model(Aliased).updated({"order_id": 7}, {"typo": 1})

    def test_values_are_converted(self) -> None:
        assert model(POrder).started({"order_id": "7", "total": "9.5"})[0]["order_id"] == 7

    def test_validators(self) -> None:
        with pytest.raises(ContextInvalid, match="low: Value error, below zero"):
            model(Checked).started({"low": -1, "high": 2})
        with pytest.raises(ContextInvalid, match=r"Checked: Value error, low is above high"):
            model(Checked).updated({"low": 1, "high": 2}, {"high": 0})

    def test_extra_keys_that_are_allowed_are_in_the_instance(self) -> None:
        assert model(Open).instance({"a": 1, "b": 2}).b == 2


class TestDataclasses:
    def test_post_init(self) -> None:
        @dataclass
        class Range:
            low: int
            high: int

            def __post_init__(self) -> None:
                if self.low > self.high:
                    raise ValueError("low is above high")

        with pytest.raises(ContextInvalid, match="low is above high"):
            model(Range).started({"low": 2, "high": 1})

    def test_a_key_that_it_lacks(self) -> None:
        with pytest.raises(ContextInvalid, match="totl: is not a field of it"):
            model(Order).started({"order_id": 7, "total": 1.0, "totl": 5})

    def test_annotations_that_cannot_be_read(self) -> None:
        @dataclass
        class Broken:
            a: Nowhere  # type: ignore[name-defined]  # noqa: F821

        with pytest.raises(DefinitionError, match=r"Broken.*annotations cannot be read"):
            model(Broken).started({"a": 1})


@pytest.mark.parametrize("given", [dict, int, Order(1, 2.0), {"a": int}, "Order", RootModel[int]])
def test_what_is_not_a_model(given: Any) -> None:
    with pytest.raises(DefinitionError, match=r"'x': context: expected a dataclass"):
        Saga("x", context=given)
