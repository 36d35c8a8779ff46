"""Signals of sagas that are nested: by what names they are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_saga import NestedSagaStep, Saga
from celery_saga.errors import DefinitionError, UnknownSignal
from celery_saga.runtime import runtime_of
from tests.api.shops import Shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.app.close()


def large(context: Any) -> bool: ...  # type: ignore[empty-body]


def approval(shop: Shop, name: str = "approval", signal: str = "approved", **options: Any) -> Saga:
    return Saga(name, app=shop.app).wait_for(signal, **options).commit()  # type: ignore[no-any-return]


def step(shop: Shop, name: str, **options: Any) -> NestedSagaStep:
    return NestedSagaStep(approval(shop, **options), name=name)


def nested(shop: Shop, inner: Saga) -> Saga:
    return Saga("outer", app=shop.app).nested_step(inner, name="inner").commit()  # type: ignore[no-any-return]


def choice(shop: Shop, saga: Any) -> Any:
    condition = shop.app.tasks["shop.take"]
    return (
        saga.conditional_step()
        .if_then(condition, step(shop, "first"))
        .else_then(step(shop, "second"))
    )


#: What a saga has inside -> the names of its signals, with the loops around them.
SHAPES: dict[str, tuple[Callable[[Shop, Any], Any], dict[str, int]]] = {
    "one": (lambda shop, saga: saga.nested_step(approval(shop)), {"approved": 0}),
    "two with signals of their own": (
        lambda shop, saga: saga.nested_step(approval(shop)).nested_step(
            approval(shop, "payment", "paid")
        ),
        {"approved": 0, "paid": 0},
    ),
    "one saga twice": (
        lambda shop, saga: saga.nested_step(approval(shop), name="first").nested_step(
            approval(shop), name="second"
        ),
        {"first.approved": 0, "second.approved": 0},
    ),
    "one saga in two branches": (
        lambda shop, saga: saga.parallel_step(
            step(shop, "first", returns=False), step(shop, "second", returns=False)
        ),
        {"first.approved": 0, "second.approved": 0},
    ),
    "one, and a wait of the saga itself": (
        lambda shop, saga: saga.wait_for("approved").nested_step(approval(shop)),
        {"approved": 0, "approval.approved": 0},
    ),
    "one in one, twice": (
        lambda shop, saga: saga.nested_step(nested(shop, approval(shop)), name="a").nested_step(
            nested(shop, approval(shop)), name="b"
        ),
        {"a.inner.approved": 0, "b.inner.approved": 0},
    ),
    "one saga in two loops": (
        lambda shop, saga: saga.for_each("a", step(shop, "first")).for_each(
            "b", step(shop, "second")
        ),
        {"first.approved": 1, "second.approved": 1},
    ),
    "one saga in the alternatives of a choice": (choice, {"approved": 0}),
    "one saga in a wait and behind its timeout": (
        lambda shop, saga: saga.wait_for("approved", 60, approval(shop)),
        {"approved": 0},
    ),
    "others are not concerned": (
        lambda shop, saga: (
            saga.nested_step(approval(shop), name="first")
            .nested_step(approval(shop), name="second")
            .nested_step(approval(shop, "payment", "paid"))
        ),
        {"first.approved": 0, "second.approved": 0, "paid": 0},
    ),
}


@pytest.mark.parametrize("what", SHAPES)
def test_their_names(shop: Shop, what: str) -> None:
    build, names = SHAPES[what]
    saga = Saga("outer", app=shop.app)
    build(shop, saga)
    assert runtime_of(shop.app).plans.of(saga.commit()).signals == names


def test_a_saga_that_waits_twice_for_one_signal_is_refused(shop: Shop) -> None:
    saga = Saga("twice", app=shop.app).wait_for("approved").wait_for("approved", name="again")
    with pytest.raises(DefinitionError, match="saga 'twice': two of its steps wait for the signal"):
        saga.commit()


def test_each_wait_gets_its_own(shop: Shop) -> None:
    saga = Saga("outer", app=shop.app)
    saga.nested_step(approval(shop), name="first", returns={"one": "approved"})
    saga.nested_step(approval(shop), name="second", returns={"two": "approved"})
    result = saga.commit().delay()

    shop.manager.signal(result.id, "second.approved", 2)
    assert result.status == "RUNNING"
    with pytest.raises(UnknownSignal, match=r"expected 'first\.approved' or 'second\.approved'"):
        shop.manager.signal(result.id, "approved", 0)
    shop.manager.signal(result.id, "first.approved", 1)

    assert dict(result.get()) == {"one": 1, "two": 2}


class TestCompensationFailures:
    """What a nested saga says about a compensation that has failed holds for the whole run."""

    def test_a_warning(self, shop: Shop) -> None:
        inner = approval(shop)
        inner.on_compensation_failure = "stop"
        saga = Saga("outer", app=shop.app).nested_step(inner)
        with pytest.warns(match=r"saga 'outer': step 'approval' is a saga with on_.*='stop'"):
            saga.commit()

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("inside", ["stop", "continue"])
    def test_none(self, shop: Shop, inside: str) -> None:
        inner = approval(shop)
        inner.on_compensation_failure = inside  # type: ignore[assignment]
        Saga("outer", app=shop.app, on_compensation_failure="stop").nested_step(inner).commit()
