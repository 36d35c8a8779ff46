"""What a task is called with: worked out from its signature."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import pytest

import celery_saga
from celery_saga import Const, SagaContext
from celery_saga.core.plan import Input
from celery_saga.definition.binding import bind, check_function
from celery_saga.errors import DefinitionError


def key(name: str, required: bool = True) -> Input:
    return Input(name, (name,), required=required)


def of(function: Callable[..., Any] | None, **options: Any) -> tuple[str, list[Input]]:
    """Style and inputs; the inputs in a list, which reads better in a failure."""
    style, inputs = bind("step", "task", function, **options)
    return style, list(inputs)


def required(a, b): ...  # type: ignore[no-untyped-def]
def defaults(a, b=2, *, c, d=4): ...  # type: ignore[no-untyped-def]
def open_ended(a, *args, b=1, **kwargs): ...  # type: ignore[no-untyped-def]
def nothing(): ...  # type: ignore[no-untyped-def]
def annotated(saga: SagaContext): ...  # type: ignore[no-untyped-def]
def annotated_quoted(saga: "SagaContext"): ...  # type: ignore[no-untyped-def]  # noqa: UP037
def annotated_dotted(saga: celery_saga.SagaContext): ...  # type: ignore[no-untyped-def]
def annotated_default(saga: SagaContext = None, n=1): ...  # type: ignore[no-untyped-def,assignment]
def annotated_second(a, saga: SagaContext): ...  # type: ignore[no-untyped-def]
def annotated_other(context: dict[str, Any], n): ...  # type: ignore[no-untyped-def]
def named_context(context): ...  # type: ignore[no-untyped-def]
def named_ctx(ctx, n=1, *args, **kwargs): ...  # type: ignore[no-untyped-def]
def named_position(context, /): ...  # type: ignore[no-untyped-def]
def named_second(n=1, *, context): ...  # type: ignore[no-untyped-def]
def named_and_more(context, total): ...  # type: ignore[no-untyped-def]
def optional_context(context=None): ...  # type: ignore[no-untyped-def]
def similar(contexts): ...  # type: ignore[no-untyped-def]


def real_annotation(saga): ...  # type: ignore[no-untyped-def]


real_annotation.__annotations__ = {"saga": SagaContext}


class TestByName:
    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            (required, [key("a"), key("b")]),
            (defaults, [key("a"), key("b", False), key("c"), key("d", False)]),
            (open_ended, [key("a"), key("b", False)]),
            (nothing, []),
        ],
    )
    def test_each_parameter_reads_the_key_of_its_name(
        self, function: Any, expected: list[Input]
    ) -> None:
        assert of(function) == ("inputs", expected)

    def test_a_mapping_renames_on_top_of_the_names(self) -> None:
        found = of(defaults, inputs={"b": "bee", "c": ("sea", 0, "level"), "d": Const([1])})
        assert found == (
            "inputs",
            [
                key("a"),
                Input("b", ("bee",), required=False),
                Input("c", ("sea", 0, "level")),
                Input("d", const=[1]),
            ],
        )

    def test_a_list_is_exhaustive(self) -> None:
        assert of(defaults, inputs=["c", "a"]) == ("inputs", [key("c"), key("a")])
        assert of(defaults, inputs=("a", "b", "c")) == (
            "inputs",
            [key("a"), key("b", False), key("c")],
        )

    def test_keyword_arguments_get_what_inputs_name(self) -> None:
        found = of(open_ended, inputs={"extra": "x", "b": "b"})
        assert found == ("inputs", [key("a"), key("b", False), Input("extra", ("x",))])
        assert of(open_ended, inputs=["a", "extra"]) == ("inputs", [key("a"), key("extra")])

    def test_constants_stand_for_keys(self) -> None:
        assert of(required, parameters={"b": 7}) == ("inputs", [key("a"), Input("b", const=7)])
        assert of(required, inputs=["a"], parameters={"b": 7}) == (
            "inputs",
            [key("a"), Input("b", const=7)],
        )
        assert of(required, inputs={"a": "x"}, parameters={"b": None}) == (
            "inputs",
            [Input("a", ("x",)), Input("b")],
        )
        assert of(open_ended, parameters={"extra": 1})[1][-1] == Input("extra", const=1)

    def test_a_constant_is_a_copy(self) -> None:
        rates = {"eu": [19]}
        _, inputs = of(required, inputs={"b": Const(rates)}, parameters={"a": rates})
        rates["eu"].append(7)
        assert [item.const for item in inputs] == [{"eu": [19]}] * 2

    def test_a_task_that_is_only_a_name(self) -> None:
        inputs = {"a": "x", "b": ("y", "z"), "c": Const(3)}
        assert of(None, inputs=inputs, parameters={"d": 4}) == (
            "inputs",
            [
                Input("a", ("x",)),
                Input("b", ("y", "z")),
                Input("c", const=3),
                Input("d", const=4),
            ],
        )
        assert of(None, inputs=["a"]) == ("inputs", [key("a")])
        assert of(None, inputs=[]) == ("inputs", [])
        assert of(None, context=True, parameters={"d": 4}) == ("context", [Input("d", const=4)])


class TestStyle:
    @pytest.mark.parametrize(
        "function",
        [
            annotated,
            annotated_quoted,
            annotated_dotted,
            annotated_default,
            real_annotation,
            named_context,
            named_ctx,
            named_position,
        ],
    )
    def test_gets_the_whole_context(self, function: Any) -> None:
        assert of(function) == ("context", [])

    @pytest.mark.parametrize(
        "function",
        [
            required,
            annotated_second,
            annotated_other,
            named_second,
            named_and_more,
            optional_context,
            similar,
            nothing,
        ],
    )
    def test_gets_its_parameters(self, function: Any) -> None:
        assert of(function)[0] == "inputs"

    def test_inputs_overrule_the_name_of_the_parameter(self) -> None:
        assert of(named_context, inputs={"context": "text"}) == (
            "inputs",
            [Input("context", ("text",))],
        )

    def test_the_users_word_wins(self) -> None:
        assert of(similar, context=True) == ("context", [])
        assert of(named_context, context=False) == ("inputs", [key("context")])
        assert of(annotated, context=False) == ("inputs", [key("saga")])

    @pytest.mark.parametrize("function", [similar, named_ctx, annotated, optional_context])
    def test_a_plain_function_always_gets_it(self, function: Any) -> None:
        assert of(function, plain=True) == ("context", [])

    def test_constants_come_on_top(self) -> None:
        found = of(named_and_more, plain=True, parameters={"total": 3})
        assert found == ("context", [Input("total", const=3)])
        assert of(named_ctx, parameters={"n": 3, "x": 4}) == (
            "context",
            [Input("n", const=3), Input("x", const=4)],
        )

    def test_annotations_that_are_real_types_count(self) -> None:
        assert typing.get_type_hints(annotated)["saga"] is SagaContext
        assert of(real_annotation) == ("context", [])


@pytest.mark.parametrize("options", [{"inputs": ["a"]}, {"parameters": {"a": 1}}])
def test_a_task_without_parameters_takes_none(options: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=r"'a'.* its parameters are none$"):
        of(nothing, **options)


class Order(SagaContext): ...


def order(order): ...  # type: ignore[no-untyped-def]
def order_at_last(order, /, n=1): ...  # type: ignore[no-untyped-def]
def order_any(order: Any): ...  # type: ignore[no-untyped-def]
def order_list(order: list[dict[str, Any]]): ...  # type: ignore[no-untyped-def]
def order_letter(o): ...  # type: ignore[no-untyped-def]
def order_letter_and_more(c, total): ...  # type: ignore[no-untyped-def]
def order_context(saga_context): ...  # type: ignore[no-untyped-def]
def order_ctx(_ctx): ...  # type: ignore[no-untyped-def]
def order_optional(order: SagaContext | None = None): ...  # type: ignore[no-untyped-def]
def order_mapping(order: Mapping[str, Any]): ...  # type: ignore[no-untyped-def]
def order_dict(order: dict[str, Any]): ...  # type: ignore[no-untyped-def]
def order_args(*order): ...  # type: ignore[no-untyped-def]


def order_class(order): ...  # type: ignore[no-untyped-def]


order_class.__annotations__ = {"order": Order}


class TestPlainFunctions:
    """They get the whole context, so their first parameter must look like one."""

    @pytest.mark.parametrize("function", [order, order_at_last, order_any, order_list, similar])
    def test_one_that_seems_to_want_something_else_is_refused(self, function: Any) -> None:
        with pytest.raises(DefinitionError, match=r"^here: .*SagaContext.*@app.task$") as refused:
            check_function("here", function, None)
        assert repr(function.__name__) in str(refused.value)
        check_function("here", function, True)

    @pytest.mark.parametrize(
        "function",
        [
            named_context,
            named_ctx,
            named_position,
            named_and_more,
            annotated,
            annotated_quoted,
            annotated_dotted,
            annotated_default,
            real_annotation,
            order_letter,
            order_letter_and_more,
            order_context,
            order_ctx,
            order_optional,
            order_mapping,
            order_dict,
            order_args,
            lambda order: None,
        ],
    )
    def test_one_that_takes_a_context(self, function: Any) -> None:
        check_function("here", function, None)

    def test_one_whose_annotation_is_a_mapping_of_the_users(self) -> None:
        check_function("here", order_class, None)


def wraps_all(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any: ...

    return wrapper


def wraps_more(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, tenant: str, **kwargs: Any) -> Any: ...

    return wrapper


def wraps_less(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(a: int) -> Any: ...

    return wrapper


def wraps_positions(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any: ...

    return wrapper


def takes_all(*args: Any, **kwargs: Any) -> None: ...
def takes_names(**kwargs: Any) -> None: ...
def takes_positions(*args: Any) -> None: ...


class Bound:
    """Methods, as bound tasks have them."""

    @wraps_all
    def under_all(self, a: int, b: int = 2) -> None: ...

    @wraps_all
    @wraps_more
    def under_two(self, a: int) -> None: ...

    @wraps_less
    def hidden(self, session: Any, a: int) -> None: ...


class TestUnderDecorators:
    """Each decorator takes what its own signature says, and hands on what it does not name."""

    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            (wraps_all(defaults), [key("a"), key("b", False), key("c"), key("d", False)]),
            (wraps_all(wraps_all(required)), [key("a"), key("b")]),
            (wraps_more(required), [key("a"), key("b"), key("tenant")]),
            (wraps_less(required), [key("a")]),
            (wraps_all(wraps_less(required)), [key("a")]),
            (wraps_all(open_ended), [key("a"), key("b", False)]),
            (Bound().under_all, [key("a"), key("b", False)]),
            (Bound().under_two, [key("a"), key("tenant")]),
            (wraps_all(Bound().under_all), [key("a"), key("b", False)]),
            (functools.partial(required, 1), [key("b")]),
            (functools.update_wrapper(functools.partial(required, 1), required), [key("b")]),
            (functools.partial(wraps_all(required), 1), [key("b")]),
            (functools.cache(required), [key("a"), key("b")]),
        ],
    )
    def test_by_name(self, function: Any, expected: list[Input]) -> None:
        assert of(function) == ("inputs", expected)

    def test_what_a_decorator_hands_on_by_position_alone(self) -> None:
        with pytest.raises(DefinitionError, match=r"'b' is positional-only.* \*\*kwargs"):
            of(wraps_positions(required))

    def test_the_context_is_found_under_them(self) -> None:
        assert of(wraps_all(named_context)) == ("context", [])
        assert of(wraps_all(annotated)) == ("context", [])
        assert of(takes_all, context=True) == ("context", [])
        assert of(dict, context=True) == ("context", [])


class TestUnknownParameters:
    @pytest.mark.parametrize("function", [takes_all, takes_names, mock.MagicMock(), dict])
    def test_are_refused(self, function: Any) -> None:
        for options in ({}, {"parameters": {"a": 1}}):
            with pytest.raises(DefinitionError, match=r"task 'task': .* give inputs=\[\.\.\.\]"):
                of(function, **options)

    @pytest.mark.parametrize("function", [takes_all, takes_names, mock.MagicMock(), dict])
    def test_are_what_inputs_say(self, function: Any) -> None:
        assert of(function, inputs=["a"]) == ("inputs", [key("a")])
        assert of(function, inputs=[]) == ("inputs", [])
        assert of(function, inputs={"a": "x"}) == ("inputs", [Input("a", ("x",))])
        assert of(function, inputs=["a"], parameters={"b": 1}) == (
            "inputs",
            [key("a"), Input("b", const=1)],
        )

    def test_one_that_is_named_is_known(self) -> None:
        assert of(open_ended) == ("inputs", [key("a"), key("b", False)])
        assert of(takes_positions) == ("inputs", [])


class TestAListThatIsComplete:
    """What Celery's own check takes is not held against the signature."""

    def test_it_lacks_what_something_else_gives(self) -> None:
        asked: list[set[str]] = []

        def accepts(names: Any) -> bool:
            asked.append(set(names))
            return True

        found = of(required, inputs=["a"], parameters={"z": 1}, accepts=accepts)
        assert found == ("inputs", [key("a"), Input("z", const=1)])
        assert asked == [{"a", "z"}]

    def test_it_has_what_something_else_takes(self) -> None:
        found = of(defaults, inputs=["a", "c", "b", "tenant"], accepts=lambda names: True)
        assert found == ("inputs", [key("a"), key("c"), key("b", False), key("tenant")])

    def test_where_the_check_refuses_the_signature_says_why(self) -> None:
        with pytest.raises(DefinitionError, match="lacks the required parameter 'b'"):
            of(required, inputs=["a"], accepts=lambda names: False)
        with pytest.raises(DefinitionError, match="names 'z', its parameters are"):
            of(required, inputs=["a", "b", "z"], accepts=lambda names: False)

    def test_a_mapping_is_not_complete(self) -> None:
        with pytest.raises(DefinitionError, match="names 'z', its parameters are"):
            of(required, inputs={"z": "z"}, accepts=lambda names: True)

    def test_nothing_goes_by_name_to_what_has_none(self) -> None:
        def positions(a: int, b: int = 2, /, c: int = 3) -> None: ...

        def optional(a: int = 1, /, b: int = 2) -> None: ...

        for inputs in (["a", "b"], ["c"]):
            with pytest.raises(DefinitionError, match="'a' is positional-only"):
                of(positions, inputs=inputs, accepts=lambda names: True)
        assert of(optional, inputs=["b"], accepts=lambda names: True)[1] == [key("b", False)]
