"""Plans as data: they come back equal from text, and their hash distinguishes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_saga.core.context.data import Values
from celery_saga.core.plan import (
    Call,
    Case,
    Choice,
    ForEach,
    Input,
    NestedSaga,
    Parallel,
    Plan,
    PlanStep,
)
from celery_saga.errors import UnserializableValue
from tests.definition.building import Importer, importer

__all__ = ["importer"]

VALUES = [
    None,
    True,
    False,
    0,
    1.5,
    "",
    "text",
    datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2))),
    datetime(2026, 1, 2),
    date(2026, 1, 2),
    time(3, 4, 5),
    Decimal("99.990"),
    UUID(int=7),
    b"\x00\xff",
    [1, [2, {"a": Decimal("1")}]],
    {"nested": {"list": [b"x"], "empty": {}}},
    [],
    {},
]

text = st.text(max_size=8)
values = st.recursive(
    st.sampled_from(VALUES) | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
).filter(lambda value: not (isinstance(value, dict) and value.keys() == {"__type__", "__value__"}))
paths = st.builds(
    lambda head, rest: (head, *rest), text, st.lists(text | st.integers(-5, 5), max_size=2)
)
seconds = st.floats(0, 1e6)
inputs = st.builds(Input, text, const=values) | st.builds(
    Input, text, paths, required=st.booleans()
)
calls = st.builds(
    Call,
    text,
    st.sampled_from(["context", "inputs"]),
    st.lists(inputs, max_size=3).map(tuple),
    returns=st.none() | st.just(False) | text,
    options=st.dictionaries(text, values, max_size=2),
    rerun=st.booleans(),
    max_attempts=st.none() | st.integers(1, 9),
    backoff=seconds,
    backoff_max=seconds,
)
steps = st.builds(
    PlanStep,
    text,
    calls,
    st.none() | calls,
    pivot=st.booleans(),
    compensate_on_failure=st.booleans() | st.lists(text, max_size=2).map(tuple),
)
keys = st.dictionaries(text, text, max_size=2)
nodes = st.recursive(
    steps,
    lambda inner: (
        st.builds(NestedSaga, text, st.lists(inner, max_size=3).map(tuple), st.none() | keys)
        | st.builds(Parallel, text, st.lists(inner, max_size=3).map(tuple), st.booleans())
        | st.builds(ForEach, text, paths, text, inner, st.booleans(), st.none() | text)
        | st.builds(
            Choice,
            text,
            st.lists(st.builds(Case, calls, inner), max_size=2).map(tuple),
            st.none() | inner,
        )
    ),
    max_leaves=4,
)
plans = st.builds(
    Plan,
    text,
    st.lists(nodes, max_size=3).map(tuple),
    max_redeliveries=st.integers(0, 9),
    unknown_task_grace=seconds,
)


def types_in(value: Any) -> Any:
    """The type of a value and of everything in it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [types_in(getattr(value, spec.name)) for spec in dataclasses.fields(value)]
    if isinstance(value, dict):
        return {key: types_in(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value), [types_in(item) for item in value]]
    return type(value)


class TestText:
    @given(plans)
    def test_comes_back_equal(self, plan: Plan) -> None:
        again = Plan.from_text(plan.text)
        assert again == plan
        assert types_in(again) == types_in(plan)
        assert again.text == plan.text
        assert again.hash == plan.hash

    @pytest.mark.parametrize("value", VALUES, ids=repr)
    def test_constants_keep_their_types(self, value: Any) -> None:
        again = Plan.from_text(one_call(inputs=(Input("p", const=value),)).text)
        (back,) = again.steps[0].action.inputs
        assert back.const == value
        assert types_in(back.const) == types_in(value)

    @pytest.mark.parametrize("value", [(1, 2), [(1, 2)], {1, 2}, Plan, {"a": {1: 2}}], ids=str)
    def test_a_constant_that_would_come_back_otherwise_is_refused(self, value: Any) -> None:
        with pytest.raises(UnserializableValue, match=r"plan\['steps'\].*\['const'\]"):
            assert one_call(inputs=(Input("p", const=value),)).text

    def test_what_has_its_default_is_left_out(self) -> None:
        step = PlanStep("a", Call("t"))
        assert Plan("s", (step,)).text == (
            '{"saga":"s","steps":[{"name":"a","action":{"task":"t"}}]}'
        )

    def test_the_order_of_message_options_does_not_matter(self) -> None:
        one = one_call(options={"queue": "q", "priority": 3})
        other = one_call(options={"priority": 3, "queue": "q"})
        assert one.text == other.text


def one_call(**changes: Any) -> Plan:
    return Plan("s", (PlanStep("a", Call("t", **changes)),))


FULL = Plan(
    "order",
    (
        PlanStep(
            "pay",
            Call(
                "shop.charge",
                "inputs",
                (
                    Input("total", ("order", "total")),
                    Input("note", ("note",), required=False),
                    Input("at", const=datetime(2026, 1, 2, tzinfo=timezone.utc)),
                ),
                returns="payment",
                options={"queue": "slow", "priority": 3},
                rerun=False,
                max_attempts=4,
                backoff=2.5,
                backoff_max=60.0,
            ),
            Call("shop.refund", "context", max_attempts=None),
            pivot=True,
            compensate_on_failure=("shop.Declined",),
        ),
        PlanStep("ship", Call("shop.ship")),
    ),
    max_redeliveries=5,
    unknown_task_grace=30.0,
)


def changed_call(call: Call, **changes: Any) -> Plan:
    first = dataclasses.replace(FULL.steps[0], action=dataclasses.replace(call, **changes))
    return dataclasses.replace(FULL, steps=(first, *FULL.steps[1:]))


def changed_step(**changes: Any) -> Plan:
    first = dataclasses.replace(FULL.steps[0], **changes)
    return dataclasses.replace(FULL, steps=(first, *FULL.steps[1:]))


CALL = FULL.steps[0].action
INPUTS = CALL.inputs
CHANGED = {
    "saga": dataclasses.replace(FULL, saga="orders"),
    "steps": dataclasses.replace(FULL, steps=FULL.steps[:1]),
    "order": dataclasses.replace(FULL, steps=FULL.steps[::-1]),
    "max_redeliveries": dataclasses.replace(FULL, max_redeliveries=4),
    "unknown_task_grace": dataclasses.replace(FULL, unknown_task_grace=31.0),
    "on_compensation_failure": dataclasses.replace(FULL, on_compensation_failure="stop"),
    "model": dataclasses.replace(FULL, model="shop.Order"),
    "context_limit": dataclasses.replace(FULL, context_limit=None),
    "name": changed_step(name="paid"),
    "compensation": changed_step(compensation=None),
    "pivot": changed_step(pivot=False),
    "read_only": changed_step(read_only=True),
    "on_exhausted": changed_step(on_exhausted="pause"),
    "commit": changed_step(commit=dataclasses.replace(CALL, task="shop.settle")),
    "result_key": changed_step(result_key="payment"),
    "classes": changed_step(compensate_on_failure=("shop.Timeout",)),
    "all classes": changed_step(compensate_on_failure=True),
    "no classes": changed_step(compensate_on_failure=False),
    "an empty list of classes": changed_step(compensate_on_failure=()),
    "task": changed_call(CALL, task="shop.debit"),
    "style": changed_call(CALL, style="context"),
    "inputs": changed_call(CALL, inputs=INPUTS[:2]),
    "param": changed_call(CALL, inputs=(Input("sum", ("order", "total")), *INPUTS[1:])),
    "path": changed_call(CALL, inputs=(Input("total", ("order", "sum")), *INPUTS[1:])),
    "path of other types": changed_call(CALL, inputs=(Input("total", ("order", 0)), *INPUTS[1:])),
    "required": changed_call(CALL, inputs=(INPUTS[0], Input("note", ("note",)), INPUTS[2])),
    "const": changed_call(CALL, inputs=(*INPUTS[:2], Input("at", const="2026"))),
    "returns": changed_call(CALL, returns="payment_id"),
    "returns nothing": changed_call(CALL, returns=False),
    "returns as it is": changed_call(CALL, returns=None),
    "args": changed_call(CALL, args=("one",)),
    "options": changed_call(CALL, options={"queue": "fast", "priority": 3}),
    "no options": changed_call(CALL, options={}),
    "rerun": changed_call(CALL, rerun=True),
    "max_attempts": changed_call(CALL, max_attempts=5),
    "endless": changed_call(CALL, max_attempts=None),
    "backoff": changed_call(CALL, backoff=2.0),
    "backoff_max": changed_call(CALL, backoff_max=61.0),
    "model of a call": changed_call(CALL, model="shop.Order"),
}


class TestHash:
    @pytest.mark.parametrize("plan", CHANGED.values(), ids=CHANGED.keys())
    def test_is_changed_by_every_option(self, plan: Plan) -> None:
        assert plan != FULL
        assert plan.hash != FULL.hash

    def test_all_changes_differ_from_each_other(self) -> None:
        assert len({plan.hash for plan in CHANGED.values()}) == len(CHANGED)

    def test_every_field_is_among_the_changes(self) -> None:
        for cls, words in ((Plan, 7), (PlanStep, 9), (Call, 11), (Input, 4)):
            assert len(dataclasses.fields(cls)) == words, f"{cls.__name__}: add to CHANGED"

    def test_is_short(self) -> None:
        assert len(FULL.hash) == 12
        assert set(FULL.hash) <= set("0123456789abcdef")

    def test_is_the_same_in_every_process(self, importer: Importer) -> None:
        code = """
            import sys
            from tests.core.test_plan import FULL
            print(FULL.hash)
        """
        found = {importer.run_code(code, PYTHONHASHSEED=seed) for seed in ("0", "1", "random")}
        assert found == {FULL.hash}


CONTEXT = {"a": 1, "none": None, "deep": {"list": [{"x": 7}]}, "name": "Bob", "raw": b"Bob"}


def arguments(call: Call, context: Mapping[str, Any]) -> dict[str, Any]:
    """What the task gets, as it arrives."""
    return dict(Values(texts=call.texts(Values(context))))


class TestInput:
    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("a",), 1),
            (("none",), None),
            (("deep", "list", 0, "x"), 7),
            (("deep", "list", -1, "x"), 7),
        ],
    )
    def test_is_read_at_its_path(self, path: tuple[str | int, ...], value: Any) -> None:
        call = Call("t", inputs=(Input("p", path),))
        assert call.missing(CONTEXT) is None
        assert arguments(call, CONTEXT) == {"p": value}

    @pytest.mark.parametrize(
        ("path", "key"),
        [
            (("b",), "b"),
            (("a", "b"), "('a', 'b')"),
            (("none", "b"), "('none', 'b')"),
            (("deep", "list", 1), "('deep', 'list', 1)"),
            (("deep", "list", "x"), "('deep', 'list', 'x')"),
            (("deep", 0), "('deep', 0)"),
            (("name", 0), "('name', 0)"),
            (("raw", 0), "('raw', 0)"),
        ],
    )
    def test_what_is_missing_is_named_by_its_path(
        self, path: tuple[str | int, ...], key: str
    ) -> None:
        assert Call("t", inputs=(Input("p", path),)).missing(CONTEXT) == key
        optional = Call("t", inputs=(Input("p", path, required=False),))
        assert optional.missing(CONTEXT) is None
        assert arguments(optional, CONTEXT) == {}

    def test_a_constant_is_never_missing(self) -> None:
        call = Call("t", inputs=(Input("p", const=None), Input("q", const=[1])))
        assert call.missing({}) is None
        assert arguments(call, {}) == {"p": None, "q": [1]}


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (5, 10.0), (10**6, 10.0)]
)
def test_delays_double_up_to_their_ceiling(attempts: int, seconds: float) -> None:
    assert Call("t", backoff=2.0, backoff_max=10.0).delay(attempts) == seconds


def test_the_pivot_is_found() -> None:
    assert FULL.pivot == (0,)
    assert dataclasses.replace(FULL, steps=FULL.steps[::-1]).pivot == (1,)
    assert Plan("s", FULL.steps[1:]).pivot is None
