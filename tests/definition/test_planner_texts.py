"""Every mistake that shows once the app is known is refused, naming expected and found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from celery_saga import Const, LocalSagaStep, Saga, SagaContext
from celery_saga.errors import DefinitionError, UnserializableValue
from tests.definition.building import new_app, plan_of

app = new_app("shop")
other = new_app("stock")


@app.task(name="shop.charge", shared=False)
def charge(customer_id: str, total: float, currency: str = "EUR") -> None: ...


@app.task(name="shop.refund", shared=False)
def refund(total: float) -> None: ...


@app.task(name="shop.whole", shared=False)
def whole(context: SagaContext) -> None: ...


@app.task(name="shop.unbound", shared=False)
def unbound(self: Any, total: float) -> None: ...


@app.task(name="shop.unbound_whole", shared=False)
def unbound_whole(self: Any, context: SagaContext) -> None: ...


@app.task(name="shop.by_position", shared=False)
def by_position(total: float, /) -> None: ...


@app.task(name="shop.nothing", shared=False)
def nothing() -> None: ...


@other.task(name="stock.reserve", shared=False)
def reserve(order_id: int) -> None: ...


def plain(context: Any, rate: int = 1) -> None: ...


def plain_two(context: Any, rate: int) -> None: ...


def plain_position(context: Any, rate: int, /) -> None: ...


def plain_none() -> None: ...


def plain_keyword(*, context: Any) -> None: ...


class Gateway:
    """Things that can be called and are no functions."""

    def method(self, context: Any) -> None: ...

    def __call__(self, context: Any) -> None: ...


# Committed while this module is imported, so that workers know these functions.
Saga("texts", steps=[plain, plain_two, plain_position, plain_none, plain_keyword]).commit()


def one(target: Any, saga: str = "checkout", on: Any = app, /, **options: Any) -> None:
    """Plan a saga of one step."""
    plan_of(Saga(saga, steps=[LocalSagaStep(target, **options)]), on)


def with_parameters(target: Any, parameters: Any, **options: Any) -> None:
    step = LocalSagaStep().on_execute(target, parameters, **options)
    plan_of(Saga("checkout", steps=[step]), app)


def with_compensation(*args: Any, **options: Any) -> None:
    saga = Saga("checkout")
    saga.local_step(charge).on_failure(refund, *args, **options)
    plan_of(saga, app)


def run_time_function(context: Any) -> None: ...


def nested() -> Any:
    def inner(context: Any) -> None: ...

    return inner


step = LocalSagaStep
Row = tuple[Callable[[], Any], list[str]]

ROWS: dict[str, Row] = {
    "unknown parameter in inputs": (
        lambda: one(charge, inputs={"totl": "total"}),
        ["step 'charge'", "'shop.charge'", "inputs=", "'totl'", "'currency', 'customer_id'"],
    ),
    "unknown parameter in a list": (
        lambda: one(charge, inputs=["customer_id", "total", "sum"]),
        ["inputs=", "'sum'", "'currency', 'customer_id'"],
    ),
    "incomplete list": (
        lambda: one(charge, inputs=["customer_id"]),
        ["inputs=", "list", "complete", "'total'"],
    ),
    "inputs is a text": (
        lambda: one(charge, inputs="total"),
        ["inputs=", "expected a mapping or a list", "found 'total'"],
    ),
    "inputs is a number": (
        lambda: one(charge, inputs=7),
        ["inputs=", "expected a mapping or a list", "found 7"],
    ),
    "inputs of something else": (
        lambda: one("far.task", inputs=[3]),
        ["inputs=", "names of parameters", "found 3"],
    ),
    **{
        f"source {bad!r}": (
            functools.partial(lambda bad: one(charge, inputs={"total": bad}), bad),
            ["inputs['total']", "expected a context key, a path", "Const", f"found {bad!r}"],
        )
        for bad in (7, None, (), (7,), ("a", 1.5), ("a", None), ["a", "b"])
    },
    "positional-only": (
        lambda: one(by_position),
        ["'shop.by_position'", "'total'", "positional-only", "remove the '/'"],
    ),
    "unbound self": (
        lambda: one(unbound),
        ["'shop.unbound'", "'self'", "not bound", "bind=True"],
    ),
    "unbound self of a task that takes the context": (
        lambda: one(unbound_whole, context=True),
        ["'shop.unbound_whole'", "'self'", "not bound", "bind=True"],
    ),
    "name-only without inputs": (
        lambda: one("far.task"),
        ["'far.task'", "not registered in this process", "inputs=", "context=True"],
    ),
    "context style with inputs": (
        lambda: one(whole, context=True, inputs=["context"]),
        ["'shop.whole'", "whole context", "inputs="],
    ),
    "annotated with inputs": (
        lambda: one(whole, inputs=["context"]),
        ["'shop.whole'", "whole context", "inputs="],
    ),
    "plain function with inputs": (lambda: one(plain, inputs=["rate"]), ["whole", "inputs="]),
    "name-only with context and inputs": (
        lambda: one("far.task", context=True, inputs=["a"]),
        ["'far.task'", "whole context", "inputs="],
    ),
    "context style with returns": (
        lambda: one(whole, returns="total"),
        ["'shop.whole'", "whole context", "returns="],
    ),
    "plain function by name": (
        lambda: one(plain, context=False),
        ["plain function", "whole context", "found context=False"],
    ),
    "context is a text": (
        lambda: one(charge, context="yes"),
        ["context", "expected True or False", "found 'yes'"],
    ),
    "context style without a parameter": (
        lambda: one(nothing, context=True),
        ["'shop.nothing'", "expected a function whose first parameter", "found ()"],
    ),
    "plain function without a parameter": (
        lambda: one(plain_none),
        ["expected a function whose first parameter", "found ()"],
    ),
    "plain function of keywords": (
        lambda: one(plain_keyword),
        ["expected a function whose first parameter", "found (*, context"],
    ),
    "plain function that needs more": (
        lambda: one(plain_two),
        ["whole context", "'rate'", "parameters={'rate': ...}"],
    ),
    "plain function that needs more by position": (
        lambda: with_parameters(plain_position, {"rate": 3}),
        ["'rate'", "positional-only", "remove the '/'"],
    ),
    "constant in place of the context": (
        lambda: with_parameters(plain, {"context": 1}),
        ["'context'", "takes the whole context"],
    ),
    "unknown constant": (
        lambda: with_parameters(charge, {"totl": 1}),
        ["'shop.charge'", "'totl'", "'currency', 'customer_id', 'total'"],
    ),
    "unknown constant of a plain function": (
        lambda: one(plain, rat=1),
        ["unknown option or parameter 'rat'", "'context', 'rate'"],
    ),
    "a parameter twice": (
        lambda: with_parameters(charge, {"total": 1}, inputs={"total": "sum"}),
        ["'shop.charge'", "'total'", "inputs=", "parameters="],
    ),
    "returns": (
        lambda: one(charge, returns=True),
        ["'charge'", "returns", "expected a context key or False", "found True"],
    ),
    "returns nothing": (lambda: one(charge, returns=""), ["returns", "expected", "found ''"]),
    "compensate_on_failure": (
        lambda: plan_of(Saga("s", steps=[step(charge, refund, compensate_on_failure="all")]), app),
        ["'charge'", "compensate_on_failure", "expected True, False or exception", "found 'all'"],
    ),
    **{
        f"retry_backoff {bad!r}": (
            functools.partial(lambda bad: with_compensation(retry_backoff=bad), bad),
            ["'charge'", "retry_backoff", "expected seconds", f"found {bad!r}"],
        )
        for bad in (-1, "3", True, float("nan"), float("inf"))
    },
    "a number": (
        lambda: one(42),
        ["expected a Celery task, a task's name or a function", "found 42"],
    ),
    "nothing at all": (
        lambda: plan_of(Saga("s", steps=[LocalSagaStep().on_execute(None)]), app),
        ["expected a Celery task, a task's name or a function", "found None"],
    ),
    "an empty name": (lambda: one(" ", inputs=[]), ["expected a Celery task", "found ' '"]),
    "partial": (
        lambda: one(functools.partial(plain, rate=2)),
        ["expected a Celery task", "found functools.partial", "parameters="],
    ),
    "callable object": (lambda: one(Gateway()), ["expected a Celery task", "Gateway object at"]),
    "bound method": (
        lambda: one(Gateway().method),
        ["expected a Celery task", "found <bound method Gateway.method"],
    ),
    "class": (lambda: one(Gateway), ["expected a Celery task", "found <class", "Gateway"]),
    "lambda of an anonymous saga": (
        lambda: plan_of(Saga(steps=[lambda context: None]), app),
        ["lambda", "without a name", "worker", "Saga('...')"],
    ),
    "lambda of a saga built at run time": (
        lambda: one(lambda context: None, "at-run-time"),
        ["worker could not find", "'saga:at-run-time.0.action'", "import"],
    ),
    "nested function of a saga built at run time": (
        lambda: one(nested(), "at-run-time", name="pay"),
        ["worker could not find", "'saga:at-run-time.pay.action'", "import"],
    ),
    "function of a saga built at run time": (
        lambda: one(run_time_function),
        ["worker could not find", ".run_time_function'", "@saga_step", "manager.register()"],
    ),
    "mixed apps": (
        lambda: Saga("checkout", steps=[charge, reserve]).commit().app,
        ["'checkout'", "'shop' and 'stock'", "one app"],
    ),
    "task of another app": (
        lambda: one(reserve),
        ["'stock.reserve'", "not registered", "'shop'", "@app.task"],
    ),
    "compensation that is a task of another app": (
        lambda: plan_of(Saga("s", app=app, steps=[step(charge, reserve)])),
        ["'stock.reserve'", "not registered", "'shop'"],
    ),
}


@pytest.mark.parametrize(("build", "parts"), ROWS.values(), ids=ROWS.keys())
def test_the_text_names_what_was_expected_and_what_was_found(
    build: Callable[[], Any], parts: list[str]
) -> None:
    with pytest.raises(DefinitionError) as caught:
        build()
    text = str(caught.value)
    assert [part for part in parts if part not in text] == [], text


def test_a_constant_which_json_cannot_carry_is_named() -> None:
    for build in (
        lambda: one(charge, inputs={"total": Const((1, 2))}),
        lambda: with_parameters(charge, {"total": (1, 2)}),
    ):
        with pytest.raises(UnserializableValue, match=r"step 'charge'.*'total'.*: a tuple cannot"):
            build()
