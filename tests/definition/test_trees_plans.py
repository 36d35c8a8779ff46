"""Branches, choices, loops and nested sagas: the plans that definitions of projects become."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, shared_task

from celery_saga import LocalSagaStep, NestedSagaStep, Saga, SagaContext, saga_step
from celery_saga.core.plan import Choice, ForEach, NestedSaga, Parallel, Plan, PlanStep
from celery_saga.definition import functions
from celery_saga.runtime import runtime_of
from tests.definition.building import Importer, importer, new_app, plan_of

__all__ = ["importer"]

app = new_app(task_acks_late=True)


@app.task(name="trees.reserve")
def reserve(order_id: int) -> str: ...  # type: ignore[empty-body]


@app.task(name="trees.release")
def release(reservation: str = "") -> None: ...


@app.task(name="trees.refund")
def refund(payment: str = "") -> None: ...


@saga_step(compensation=refund, returns="payment")
@app.task(name="trees.charge", queue="payments")
def charge(order_id: int) -> str: ...  # type: ignore[empty-body]


@app.task(name="trees.ship")
def ship(item: str) -> str: ...  # type: ignore[empty-body]


@shared_task(name="trees.shared_note")
def note(order_id: int) -> None: ...


@app.task(name="trees.is_large")
def is_large(total: float) -> bool: ...  # type: ignore[empty-body]


def is_gift(context: SagaContext) -> bool: ...  # type: ignore[empty-body]


async def greet(context: SagaContext) -> None: ...


functions.register(functions.wire_name(is_gift, None) or "", is_gift)
functions.register(functions.wire_name(greet, None) or "", greet)


def names(plan: Plan) -> list[str]:
    return [node.name for path, node in plan.walk() if path]


def first(saga: Saga, app: Celery = app) -> Any:
    return plan_of(saga, app).steps[0]


def payment(**options: Any) -> Saga:
    return Saga("payment", steps=[charge], **options).commit()


class TestParallel:
    def test_its_branches_are_steps_and_sagas(self) -> None:
        saga = Saga("s")
        saga.parallel_step(reserve, LocalSagaStep(reserve, release, queue="slow"), payment())

        node = first(saga)

        assert isinstance(node, Parallel)
        assert [type(branch) for branch in node.branches] == [PlanStep, PlanStep, NestedSaga]
        assert names(plan_of(saga, app)) == [
            "parallel",
            "reserve",
            "reserve_2",
            "payment",
            "payment.charge",
        ]
        assert node.branches[1].action.options == {"queue": "slow"}  # type: ignore[union-attr]
        assert node.branches[1].compensation.task == "trees.release"  # type: ignore[union-attr]
        assert not node.compensate_parallel

    def test_a_branch_brings_the_compensation_that_its_task_declares(self) -> None:
        saga = Saga("s")
        saga.parallel_step(charge, reserve)
        assert first(saga).branches[0].compensation.task == "trees.refund"

    def test_a_branch_named_by_its_task_gets_what_is_declared(self) -> None:
        saga = Saga("s")
        saga.parallel_step("trees.charge", reserve)
        branch = first(saga).branches[0]
        assert branch.action.returns == "payment"
        assert branch.compensation.task == "trees.refund"

    @pytest.mark.parametrize(("given", "together"), [("reverse", False), ("parallel", True)])
    def test_the_order_of_its_compensations(self, given: Any, together: bool) -> None:
        saga = Saga("s")
        saga.parallel_step(reserve, note, compensate=given)
        assert first(saga).compensate_parallel is together

    def test_it_continues_a_chain(self) -> None:
        saga = Saga("s").local_step(reserve).parallel_step(charge, note, name="both")
        made = saga.local_step(ship, inputs={"item": "payment"}).commit()
        assert names(plan_of(made, app)) == ["reserve", "both", "charge", "shared_note", "ship"]

    def test_groups_in_groups(self) -> None:
        inner = Saga("inner")
        inner.parallel_step(reserve, note)
        inner.commit()
        saga = Saga("s")
        saga.parallel_step(charge, inner)
        assert names(plan_of(saga, app)) == [
            "parallel",
            "charge",
            "inner",
            "inner.parallel",
            "inner.reserve",
            "inner.shared_note",
        ]

    def test_steps_of_a_saga_may_be_given_at_once(self) -> None:
        group = Saga("other").parallel_step(reserve, note)
        fresh = type(group)(reserve, note, name="both")
        assert names(plan_of(Saga("s", steps=[charge, fresh]), app))[:2] == ["charge", "both"]

    def test_its_tasks_decide_the_app(self) -> None:
        saga = Saga("s")
        saga.parallel_step(note, payment())
        assert saga.commit().app is app


class TestNested:
    def test_the_keys_of_its_results_have_no_prefix(self) -> None:
        """So it works as it does alone: its own steps read them by these names."""
        inner = Saga("stock", steps=[reserve]).commit()
        saga = Saga("s")
        saga.nested_step(inner)
        step = first(saga).steps[0]
        assert (step.name, step.key) == ("stock.reserve", "reserve")
        assert plan_of(inner, app).steps[0].key == "reserve"

    def test_it_may_be_used_twice_under_two_names(self) -> None:
        inner = payment()
        saga = Saga("s")
        saga.nested_step(inner, name="deposit").nested_step(inner, name="rest")
        assert names(plan_of(saga, app)) == ["deposit", "deposit.charge", "rest", "rest.charge"]

    @pytest.mark.parametrize(
        ("inputs", "returns", "expected"),
        [
            (None, None, (None, None)),
            (["order_id"], None, ({"order_id": "order_id"}, None)),
            ({"order_id": "id"}, ["payment"], ({"order_id": "id"}, {"payment": "payment"})),
            (None, {"paid": "payment"}, (None, {"paid": "payment"})),
            (None, [], (None, {})),
        ],
        ids=["all", "a list", "mapping and list", "returns alone", "nothing returned"],
    )
    def test_inputs_and_returns(self, inputs: Any, returns: Any, expected: Any) -> None:
        saga = Saga("s")
        saga.nested_step(payment(), inputs=inputs, returns=returns)
        node = first(saga)
        assert (node.inputs, node.returns) == expected

    def test_a_pivot_may_be_in_it(self) -> None:
        inner = Saga("inner", steps=[LocalSagaStep(reserve, pivot=True)]).commit()
        saga = Saga("s", steps=[charge])
        saga.nested_step(inner).local_step(note)
        plan = plan_of(saga, app)
        assert plan.pivot == (1, 0)
        assert plan.step((2,)).action.max_attempts is None  # as every step after a pivot


class TestLoop:
    def test_over_a_key(self) -> None:
        saga = Saga("s")
        saga.for_each("lines", ship, parallel=True, returns="parcels", compensate="parallel")
        node = first(saga)
        assert isinstance(node, ForEach)
        assert (node.over, node.item, node.parallel) == (("lines",), "item", True)
        assert (node.returns, node.compensate_parallel) == ("parcels", True)
        assert node.body.action.returns == "parcels"  # type: ignore[union-attr]

    def test_over_a_path_with_a_saga_as_its_body(self) -> None:
        inner = Saga("pack", steps=[ship]).commit()
        saga = Saga("s")
        saga.for_each(("order", "lines", 0), inner, as_="line", name="each_line")
        assert first(saga).over == ("order", "lines", 0)
        assert names(plan_of(saga, app)) == ["each_line", "pack", "pack.ship"]

    def test_a_body_in_context_style_writes_the_key_itself(self) -> None:
        saga = Saga("s")
        saga.for_each("lines", greet, returns="greetings")
        assert first(saga).body.action.returns is None


class TestChoice:
    def test_its_conditions_are_calls(self) -> None:
        saga = Saga("s")
        choice = saga.conditional_step(name="way")
        choice.if_then(is_gift, payment()).if_then(is_large, reserve, queue="rules")
        choice.else_then(note)

        node = first(saga)

        assert isinstance(node, Choice)
        gift, large = (case.condition for case in node.cases)
        assert (gift.task, gift.style) == (functions.wire_name(is_gift, None), "context")
        assert (large.task, large.style, large.options) == (
            "trees.is_large",
            "inputs",
            {"queue": "rules"},
        )
        assert gift.rerun is large.rerun is True  # a condition has no effect
        assert names(plan_of(saga, app)) == [
            "way",
            "payment",
            "payment.charge",
            "reserve",
            "shared_note",
        ]

    def test_as_the_original_writes_it(self) -> None:
        saga = (
            Saga("s")
            .local_step(reserve)
            .conditional_step()
            .if_then(is_gift, payment())
            .else_then(Saga().local_step(note).commit())
            .commit()
        )
        assert names(plan_of(saga, app)) == [
            "reserve",
            "choice",
            "payment",
            "payment.charge",
            "saga",
            "saga.shared_note",
        ]

    def test_alternatives_may_store_results_under_one_key(self) -> None:
        saga = Saga("s")
        saga.conditional_step().if_then(is_gift, charge).else_then(
            LocalSagaStep(reserve, returns="payment")
        )
        assert isinstance(first(saga), Choice)


class TestFunctions:
    SOURCE = """
        from celery_saga import Saga

        inner = Saga().local_step(lambda context: {"one": 1}).commit()
        saga = Saga("lambdas")
        saga.parallel_step(lambda context: None, inner)
        saga.conditional_step(name="way").if_then(lambda context: True, Saga("a", steps=[
            lambda context: None]).commit())
        saga.for_each("items", lambda context: None)
        saga.commit()
    """

    def test_lambdas_are_registered_under_their_places(self, importer: Importer) -> None:
        plan = plan_of(importer.load(self.SOURCE).saga, new_app())
        assert [call.task for _, call, _ in plan.calls()] == [
            "saga:lambdas.0.0.action",
            "saga:lambdas.0.1.0.action",
            "saga:lambdas.way.condition_1",
            "saga:a.0.action",
            "saga:lambdas.2.0.action",
        ]

    def test_a_worker_finds_them(self, importer: Importer) -> None:
        importer.load(self.SOURCE.replace("lambdas", "found").replace('"a"', '"b"'))
        tasks = new_app().tasks
        assert {"saga:found.0.0.action", "saga:found.way.condition_1", "saga:b.0.action"} <= {
            *tasks
        }


def test_a_linear_saga_has_the_plan_that_it_had() -> None:
    """Its text is in checkpoints, and its hash in messages."""
    plan = plan_of(Saga("linear", steps=[reserve, charge]), app)
    assert plan.linear
    assert "result_key" not in plan.text


@pytest.mark.parametrize("queue", [None, "fast"])
def test_a_plan_of_a_tree_survives_its_text(queue: str | None) -> None:
    saga = Saga("s")
    saga.parallel_step(reserve, NestedSagaStep(payment(), inputs=["order_id"]), name="both")
    saga.for_each("lines", ship).conditional_step().if_then(is_gift, note)
    options = {} if queue is None else {"queue": queue}
    saga.commit()
    plan = runtime_of(app).plans.of(saga, **options)
    assert Plan.from_text(plan.text) == plan


def test_its_plan_shows_the_tree_with_its_paths() -> None:
    saga = Saga("s", app=app)
    saga.local_step(LocalSagaStep(reserve, name="hold", pivot=True)).parallel_step(note, ship)
    choice = saga.for_each(("order", "lines"), ship, as_="line").conditional_step()
    choice.if_then(is_large, Saga("gift", steps=[note]).commit()).else_then(note)
    saga.for_each("lines", LocalSagaStep(ship), parallel=True)
    assert str(saga.commit().plan).splitlines() == [
        "s",
        "  0      hold: trees.reserve (pivot)",
        "  1      parallel: all at once",
        "  1.0    shared_note: trees.shared_note",
        "  1.1    ship: trees.ship",
        "  2      for_each: for each 'line' in context['order']['lines'], one after the other",
        "  2.0    ship_2: trees.ship",
        "  3      choice: by trees.is_large, else the last",
        "  3.0    gift: one after the other",
        "  3.0.0  gift.shared_note: trees.shared_note",
        "  3.1    shared_note_2: trees.shared_note",
        "  4      for_each_2: for each 'item' in context['lines'], all at once",
        "  4.0    ship_3: trees.ship",
    ]


def test_a_plan_shows_compensations() -> None:
    assert str(payment(app=app).plan).endswith("0  charge: trees.charge <-> trees.refund")


def test_its_repr_shows_the_tree() -> None:
    saga = Saga("s", steps=[charge])
    saga.parallel_step(LocalSagaStep(reserve, release), payment())
    saga.for_each("lines", ship).conditional_step().if_then(is_gift, note)
    assert repr(saga) == (
        "<Saga s: charge <-> refund -> parallel(reserve <-> release | payment(charge <-> refund)) "
        "-> for_each(ship) -> choice(shared_note) (not committed)>"
    )
