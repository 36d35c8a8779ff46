"""Branches, choices, loops and nested sagas, run eagerly: what their steps see and return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_saga import (
    ConditionalSagaStep,
    LocalSagaStep,
    NestedSagaStep,
    Saga,
    SagaCompensated,
    SagaContext,
    SagaManager,
    SagaStuck,
    saga_info,
    saga_step,
)
from celery_saga.definition import functions
from celery_saga.stores.memory import MemoryStore

ran: list[str] = []

app = Celery("trees", broker="memory://", set_as_current=False)
app.conf.update(task_always_eager=True, task_acks_late=True)
SagaManager(app, storage=MemoryStore())


def named() -> str:
    return f"{saga_info().step}:{saga_info().direction}"


@app.task(name="eager.back")
def back(fail_back: list[str] | None = None) -> None:
    ran.append(named())
    if saga_info().step in (fail_back or ()):
        raise ValueError("not compensated")


@saga_step(compensation=back)
@app.task(name="eager.do")
def do(fail: list[str] | None = None) -> str:
    ran.append(named())
    if saga_info().step in (fail or ()):
        raise ValueError("declined")
    return saga_info().step


@app.task(name="eager.sees")
def sees(context: SagaContext) -> None:
    ran.append(f"{saga_info().step} sees {sorted(context)}")


@saga_step(compensation=back)
@app.task(name="eager.ship")
def ship(item: str, fail: list[str] | None = None) -> str:
    ran.append(named())
    if item in (fail or ()):
        raise ValueError(f"no parcel for {item}")
    return f"parcel of {item}"


@app.task(name="eager.is_large")
def is_large(total: int) -> bool:
    ran.append("is_large")
    return total > 100


@pytest.fixture(autouse=True)
def fresh() -> None:
    ran.clear()


def step(name: str, **options: Any) -> LocalSagaStep:
    return LocalSagaStep(do, name=name, **options)


def saga(name: str, *steps: Any) -> Saga:
    return Saga(name, steps=steps, app=app).commit()


class TestParallel:
    def made(self, **options: Any) -> Saga:
        made = Saga("group", steps=[step("a")], app=app)
        made.parallel_step(step("b"), saga("inner", step("c"), step("d")), step("e"), **options)
        return made.local_step(step("f")).commit()  # type: ignore[no-any-return]

    def test_all_branches_end_before_the_next_step(self) -> None:
        result = self.made().delay()
        assert ran[0] == "a:f"
        assert ran[-1] == "f:f"
        assert sorted(ran) == ["a:f", "b:f", "e:f", "f:f", "inner.c:f", "inner.d:f"]
        assert dict(result.get()) == {
            "a": "a",
            "b": "b",
            "c": "inner.c",
            "d": "inner.d",
            "e": "e",
            "f": "f",
        }

    def test_its_steps_are_shown_by_name(self) -> None:
        assert list(self.made().delay().progress) == ["a", "b", "inner.c", "inner.d", "e", "f"]

    @pytest.mark.parametrize("compensate", ["reverse", "parallel"])
    def test_a_failing_branch_is_compensated_with_what_has_run(self, compensate: Any) -> None:
        result = self.made(compensate=compensate).delay(fail=["e"])
        with pytest.raises(SagaCompensated) as caught:
            result.get()
        assert caught.value.step == "e"
        done = [each for each in ran if each.endswith(":f") and each != "e:f"]
        compensated = [each for each in ran if each.endswith(":c")]
        assert sorted(compensated) == sorted(each.replace(":f", ":c") for each in done)
        assert compensated[-1] == "a:c"

    def test_in_reverse_order_of_completion(self) -> None:
        self.made().delay(fail=["f"])
        forward = [each[:-2] for each in ran if each.endswith(":f") and each != "f:f"]
        assert [each[:-2] for each in ran if each.endswith(":c")] == forward[::-1]

    def test_branches_with_different_values_of_a_key_fail_to_be_joined(self) -> None:
        @app.task(name="eager.writes", shared=False)
        def writes() -> dict[str, str]:
            return {"key": saga_info().step}

        made = Saga("conflict", app=app)
        made.local_step(step("first"))
        made.parallel_step(LocalSagaStep(writes, back, name="a"), LocalSagaStep(writes, name="b"))
        with pytest.raises(SagaCompensated, match=r"branches 'a' and 'b' wrote.*'key'") as caught:
            made.commit().delay().get()
        assert caught.value.step == "parallel"
        assert ran == ["first:f", "a:c", "first:c"]

    def test_a_branch_does_not_see_what_others_write(self) -> None:
        made = Saga("views", app=app)
        made.parallel_step(step("a"), saga("other", step("b"), LocalSagaStep(sees)))
        made.commit().delay(given=1)
        assert "other.sees sees ['b', 'given']" in ran

    def test_a_compensation_that_fails_leaves_it_stuck(self) -> None:
        made = Saga("stuck", app=app)
        made.parallel_step(LocalSagaStep(do, name="a", compensation=None), step("b"))
        made.steps[0].children[0].on_failure(back, max_attempts=1)  # type: ignore[attr-defined]
        run = made.commit().delay(fail=["b"], fail_back=["a"])
        with pytest.raises(SagaStuck) as caught:
            run.get()
        assert caught.value.step == "a"


class TestChoice:
    def made(self, name: str = "choice") -> Saga:
        made = Saga(name, steps=[step("a")], app=app)
        choice = made.conditional_step()
        choice.if_then(is_large, saga("large", step("check"), step("charge")))
        choice.if_then(lambda context: context["gift"], step("wrap"))
        choice.else_then(step("charge"))
        return choice.local_step(step("z")).commit()  # type: ignore[no-any-return]

    @pytest.fixture
    def choice(self) -> Saga:
        made = self.made()
        for found in made.steps[1].operations():  # as importing its module does
            if functions.is_plain(found[1].callback):
                functions.register(f"saga:choice.1.{found[0]}", found[1].callback)
        return made

    @pytest.mark.parametrize(
        ("context", "taken"),
        [
            ({"total": 101, "gift": True}, ["large.check", "large.charge"]),
            ({"total": 1, "gift": True}, ["wrap"]),
            ({"total": 1, "gift": False}, ["charge"]),
        ],
        ids=["first", "second", "otherwise"],
    )
    def test_the_first_true_condition_decides(
        self, choice: Saga, context: dict[str, Any], taken: list[str]
    ) -> None:
        result = choice.delay(**context)
        result.get()
        assert ran == ["a:f", "is_large", *(f"{name}:f" for name in taken), "z:f"]
        assert list(result.progress) == ["a", "choice", *taken, "z"]

    def test_what_was_taken_is_compensated(self, choice: Saga) -> None:
        choice.delay(total=101, gift=False, fail=["z"])
        assert ran[-3:] == ["large.charge:c", "large.check:c", "a:c"]

    def test_an_error_of_a_condition_fails_the_step(self, choice: Saga) -> None:
        with pytest.raises(SagaCompensated) as caught:
            choice.delay(total="many", gift=False).get()
        assert caught.value.step == "choice"
        assert isinstance(caught.value.exception, TypeError)
        assert ran == ["a:f", "is_large", "a:c"]

    def test_without_a_true_condition_nothing_is_done(self) -> None:
        made = Saga("nothing", app=app).conditional_step(name="maybe").if_then(is_large, step("b"))
        result = made.local_step(step("z")).commit().delay(total=1)
        result.get()
        assert ran == ["is_large", "z:f"]


class TestLoop:
    def looping(self, body: Any = ship, **options: Any) -> Saga:
        made = Saga("loop", steps=[step("a")], app=app)
        made.for_each("lines", body, **options).local_step(step("z"))
        return made.commit()

    @pytest.mark.parametrize("parallel", [False, True])
    def test_the_results_are_a_list_in_the_order_of_the_items(self, parallel: bool) -> None:
        result = self.looping(parallel=parallel, returns="parcels").delay(lines=["x", "y", "z"])
        assert result.get()["parcels"] == ["parcel of x", "parcel of y", "parcel of z"]
        assert "item" not in result.context
        assert "ship" not in result.context

    def test_its_steps_are_shown_with_their_items(self) -> None:
        result = self.looping().delay(lines=["x", "y"])
        assert list(result.progress) == ["a", "ship[0]", "ship[1]", "z"]

    @pytest.mark.parametrize("parallel", [False, True])
    def test_it_is_compensated_per_item(self, parallel: bool) -> None:
        made = self.looping(parallel=parallel)
        with pytest.raises(SagaCompensated) as caught:
            made.delay(lines=["x", "y", "z"], fail=["z"]).get()
        assert caught.value.step == "ship[2]"
        assert [each for each in ran if each.endswith(":c")] == ["ship[1]:c", "ship[0]:c", "a:c"]

    def test_a_loop_over_nothing_is_over(self) -> None:
        assert self.looping(returns="parcels").delay(lines=[]).get()["parcels"] == []

    @pytest.mark.parametrize(
        ("lines", "text"),
        [
            ("abc", "expected a list at context['lines'], found a value of type str"),
            (None, "found nothing there"),
            (list(range(1001)), "at most 1000 items at context['lines'], found 1001"),
        ],
        ids=["a text", "nothing", "too many"],
    )
    def test_what_is_not_a_list_fails_the_step(self, lines: Any, text: str) -> None:
        context = {} if lines is None else {"lines": lines}
        with pytest.raises(SagaCompensated) as caught:
            self.looping().delay(**context).get()
        assert text in str(caught.value)
        assert ran == ["a:f", "a:c"]

    def test_a_saga_as_its_body(self) -> None:
        body = saga("packing", LocalSagaStep(ship, returns="parcel"), LocalSagaStep(sees))
        made = Saga("packed", app=app).for_each(("order", "lines"), body, returns="parcel").commit()
        result = made.delay(order={"lines": ["x", "y"]})
        assert result.get()["parcel"] == ["parcel of x", "parcel of y"]
        assert "packing.sees[1] sees ['item', 'order', 'parcel']" in ran


class TestNested:
    def test_its_steps_see_and_return_only_what_is_named(self) -> None:
        inner = saga("inner", LocalSagaStep(sees), step("charge"), step("other"))
        made = Saga("outer", steps=[step("a")], app=app)
        made.nested_step(inner, inputs={"amount": "total"}, returns={"payment": "charge"})
        result = made.commit().delay(total=7)
        assert dict(result.get()) == {"total": 7, "a": "a", "payment": "inner.charge"}
        assert "inner.sees sees ['amount']" in ran

    def test_without_them_it_sees_all_and_returns_all(self) -> None:
        made = Saga("open", steps=[step("a")], app=app)
        made.nested_step(saga("inner", LocalSagaStep(sees), step("charge")))
        result = made.commit().delay(total=7)
        assert dict(result.get()) == {"total": 7, "a": "a", "charge": "inner.charge"}
        assert "inner.sees sees ['a', 'total']" in ran

    def test_it_is_compensated_with_the_rest(self) -> None:
        made = Saga("outer", steps=[step("a")], app=app)
        made.nested_step(saga("inner", step("b"), step("c"))).local_step(step("d"))
        with pytest.raises(SagaCompensated):
            made.commit().delay(fail=["d"]).get()
        assert ran[4:] == ["inner.c:c", "inner.b:c", "a:c"]

    def test_its_own_steps_read_their_results_by_name(self) -> None:
        @app.task(name="eager.reads", shared=False)
        def reads(charge: str) -> str:
            return f"read {charge}"

        made = Saga("outer", app=app)
        made.nested_step(saga("inner", step("charge"), LocalSagaStep(reads)))
        assert made.commit().delay().get()["reads"] == "read inner.charge"


def test_the_result_of_its_task_has_no_keys_of_branches() -> None:
    """Callbacks and the rest of a chain get it, too."""
    received: list[Any] = []

    @app.task(name="eager.receives", shared=False)
    def receives(context: dict[str, Any]) -> None:
        received.append(context)

    made = Saga("published", app=app)
    made.parallel_step(step("a"), saga("inner", step("b"))).for_each("lines", ship)
    made.commit().apply_async({"lines": ["x"]}, link=receives.s())
    assert [sorted(context) for context in received] == [["a", "b", "lines", "ship"]]


class Undecided:
    """As an array of several numbers: it is neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")


#: What conditions of projects return -> the answer; ``None``: they have failed.
ANSWERS: dict[str, tuple[Any, bool | None]] = {
    "True": (True, True),
    "None": (None, False),
    "a number": (0, False),
    "a list": ([0], True),
    "a text": ("no", True),
    "what JSON cannot hold": (object(), True),
    "a generator": ((each for each in ()), True),
    "a set": (set(), False),
    "an array": (Undecided(), None),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_what_a_condition_returns(what: str) -> None:
    given, answer = ANSWERS[what]

    @app.task(name=f"eager.{what}", shared=False)
    def asked() -> Any:
        return given

    made = Saga(f"answer {what}", app=app, steps=[step("before")])
    made.conditional_step().if_then(asked, step("yes")).else_then(step("no")).commit()
    result = made.delay()

    ran_then = {True: ["yes:f"], False: ["no:f"], None: ["before:c"]}[answer]
    assert ran == ["before:f", *ran_then]
    if answer is None:
        assert result.status == "COMPENSATED"
        assert result.failure is not None
        assert (result.failure.type, result.failure.step) == ("builtins.ValueError", "choice")


@pytest.mark.parametrize("over", ["order.lines", "order.lines.0"])
def test_a_loop_over_a_dotted_key(over: str) -> None:
    result = Saga("dotted", app=app).for_each(over, ship).commit().delay(order={"lines": ["a"]})
    assert result.failure is not None
    assert f"a path into a value is a tuple, {tuple(over.split('.'))!r}" in result.failure.message


def choosing(*alternatives: Any, otherwise: Any = None) -> ConditionalSagaStep:
    made = ConditionalSagaStep()
    for alternative in alternatives:
        made.if_then("eager.has_x", alternative, inputs=["item"])
    return made if otherwise is None else made.else_then(otherwise)


@app.task(name="eager.has_x")
def has_x(item: str) -> bool:
    return item == "x"


@app.task(name="eager.mapping")
def mapping(item: str) -> dict[str, str]:
    return {"parcel": f"in a mapping: {item}"}


PARCELS = ["parcel of x", "parcel of y"]
BODIES: dict[str, tuple[Callable[[], Any], list[Any]]] = {
    "a task": (lambda: ship, PARCELS),
    "its name": (lambda: LocalSagaStep("eager.ship"), PARCELS),
    "a step with that returns=": (lambda: LocalSagaStep(ship, returns="parcel"), PARCELS),
    "a saga of one step": (lambda: saga("one", ship), PARCELS),
    "a saga of one step that is a saga": (
        lambda: saga("outer", NestedSagaStep(saga("one", ship))),
        PARCELS,
    ),
    "a saga that sees its item alone": (
        lambda: NestedSagaStep(saga("one", ship), inputs=["item"]),
        PARCELS,
    ),
    "a saga that gives back the key": (
        lambda: NestedSagaStep(saga("one", step("parcel")), returns=["parcel"]),
        ["one.parcel[0]", "one.parcel[1]"],
    ),
    "a choice": (lambda: choosing(ship, otherwise=ship), PARCELS),
    "a choice that takes nothing": (lambda: choosing(ship), ["parcel of x", None]),
    "a choice between sagas": (
        lambda: choosing(saga("one", ship), otherwise=saga("other", ship)),
        PARCELS,
    ),
    "a choice in a saga": (lambda: saga("one", choosing(ship, otherwise=ship)), PARCELS),
    "a saga of two steps": (
        lambda: saga("two", step("first"), LocalSagaStep(ship, returns="parcel")),
        PARCELS,
    ),
    "a saga whose last step returns a mapping": (
        lambda: saga("two", step("first"), mapping),
        ["in a mapping: x", "in a mapping: y"],
    ),
    "a task that returns a mapping": (
        lambda: mapping,
        [{"parcel": "in a mapping: x"}, {"parcel": "in a mapping: y"}],
    ),
}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("body", BODIES)
def test_what_a_loop_collects(body: str, parallel: bool) -> None:
    build, parcels = BODIES[body]
    loop = Saga("collecting", app=app)
    loop.for_each("items", build(), parallel=parallel, returns="parcel")
    assert loop.commit().delay(items=["x", "y"]).get()["parcel"] == parcels


def test_a_saga_is_shown_with_all_that_is_in_it() -> None:
    loop = Saga("shown", app=app)
    loop.parallel_step(step("a"), saga("inner", step("b"))).local_step(
        LocalSagaStep(ship, name="c", on_commit=back)
    )
    loop.for_each("items", choosing(step("d"), otherwise=step("e")))
    shown = repr(loop.commit()).replace(" <-> back", "")
    assert shown == (
        "<Saga shown: parallel(a | inner(b)) -> c, on commit back -> for_each(choice(d | e))>"
    )
