"""Tasks as projects write them, in the kit: each runs, fails, is lost and is run twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from celery import Celery, Task, shared_task
from pydantic import BaseModel

from celery_saga import AbortSaga, Saga, SagaContext, SagaManager, saga_info
from celery_saga.testing import Scenario, given
from tests.testing.test_scenarios import NOWHERE
from tests.worker.apps.shapes import Row, declare, handled

pytestmark = pytest.mark.filterwarnings("ignore::celery_saga.errors.DefinitionWarning")

app = Celery("kit_shapes", **NOWHERE, set_as_current=False)
SagaManager(app)
SHAPES = declare(app)
app.finalize()

#: Those whose ``__call__`` is the project's own and does not call ``run``: nothing can be put in
#: the place of their bodies.
OWN_BODY = ("CalledByAnObject",)


class Broken(Exception):
    pass


@pytest.fixture(autouse=True)
def notes() -> None:
    handled.clear()


def order(name: str) -> Scenario:
    row, saga = SHAPES.rows[name], Saga(app=app)
    saga.local_step(SHAPES.tasks[name], name="step", returns="result", **row.step)
    return given(saga.commit()).context(row.kwargs)


ROWS = [pytest.param(row, name, id=name) for name, row in SHAPES.rows.items() if not row.refused]


class TestEachShape:
    @pytest.mark.parametrize(("row", "name"), ROWS)
    def test_it_ends_as_by_itself(self, row: Row, name: str) -> None:
        run = order(name).run()
        if row.failed or isinstance(row.expected, Exception):
            kind, text = row.failed or (type(row.expected).__name__, str(row.expected))
            run.expect_compensated()
            assert run.error is not None
            assert (run.error.type.endswith(kind), run.error.message[: len(text)]) == (True, text)
        else:
            run.expect_completed()
            expected = [row.expected, list(row.expected) if isinstance(row.expected, tuple) else 0]
            assert run.context["result"] in expected
        assert tuple(handled) == row.handled

    @pytest.mark.parametrize(
        ("row", "name"), [row for row in ROWS if row.id not in OWN_BODY and row.id != "aborting"]
    )
    def test_something_happens_in_place_of_its_body(self, row: Row, name: str) -> None:
        run = order(name).step("step").fails(Broken("no")).run()
        run.expect_failed("step", Broken).expect_attempts("step", 1)
        run = order(name).step("step").returns("another").run()
        assert "another" in str(run.context["result"])

    def test_an_error_that_autoretry_is_for_is_retried(self) -> None:
        run = order("Task_auto").step("step").fails(KeyError("no")).run()
        run.expect_failed("step", KeyError).expect_attempts("step", 4)


class Amount(BaseModel):
    amount: int


@shared_task(name="kit.shared")
def shared(n: int) -> int:
    return n + 1


@app.task(shared=False, pydantic=True)
def of_a_model(order: Amount) -> Amount:
    return Amount(amount=order.amount + 1)


@app.task(shared=False)
async def awaited(n: int) -> int:
    await asyncio.sleep(0)
    return n + 1


@app.task(shared=False, bind=True)
def bound(self: Any, n: int) -> dict[str, Any]:
    return {"n": n + 1, "eager": self.request.is_eager, "id": self.request.id}


class ClassBased(Task):  # type: ignore[type-arg]
    name = "kit.class_based"

    def run(self, n: int) -> int:
        return n + 1


class_based = app.register_task(ClassBased())


@app.task(shared=False)
def whole(context: SagaContext) -> SagaContext:
    context["result"] = context["n"] + 1
    return context


def function(context: SagaContext) -> dict[str, Any]:
    return {"result": context["n"] + 1}


async def async_function(context: SagaContext) -> dict[str, Any]:
    return {"result": context["n"] + 1}


@app.task(shared=False)
def aborts(n: int) -> None:
    raise AbortSaga(f"no {n}")


@app.task(shared=False, bind=True, max_retries=5)
def by_hand(self: Any, n: int) -> int:
    if self.request.retries < n:
        raise self.retry(countdown=60)
    return int(self.request.retries)


#: Task -> what its step leaves under "result", from n = 2.
KINDS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "shared": (shared, {"returns": "result"}, 3),
    "pydantic": (
        of_a_model,
        {"returns": "result", "inputs": {"order": "order"}},
        {"amount": 3},
    ),
    "async": (awaited, {"returns": "result"}, 3),
    "class-based": (class_based, {"returns": "result"}, 3),
    "whole context": (whole, {}, 3),
    "function": (function, {}, 3),
    "async function": (async_function, {}, 3),
    "lambda": (lambda context: {"result": context["n"] + 1}, {}, 3),
    "retry by hand": (by_hand, {"returns": "result"}, 2),
}


def committed(kind: str) -> Saga:
    task, options, _ = KINDS[kind]
    saga = Saga(f"of {kind}", app=app)
    saga.local_step(task, name="step", **options)
    return saga.commit()


#: Made while this module is imported, as a worker could import it.
SAGAS = {kind: committed(kind) for kind in KINDS}


def saga_of(kind: str) -> Scenario:
    return given(SAGAS[kind]).context(n=2, order={"amount": 2})


class TestEachKind:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_runs(self, kind: str) -> None:
        saga_of(kind).expect_completed(result=KINDS[kind][2])

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_runs_twice(self, kind: str) -> None:
        seen: list[int] = []
        run = saga_of(kind).step("step").runs_twice(seen=lambda: seen.append(1)).run()
        run.expect_completed(result=KINDS[kind][2])
        assert seen == [1, 1]

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_fails(self, kind: str) -> None:
        saga_of(kind).step("step").fails(Broken).run().expect_failed("step", Broken)
        saga_of(kind).step("step").fails_after_body(Broken).run().expect_failed("step", Broken)

    @pytest.mark.parametrize("kind", KINDS)
    def test_its_worker_is_lost(self, kind: str) -> None:
        run = saga_of(kind).step("step").loses_its_worker().run()
        run.expect_stuck("step").expect_failed("step", "OutcomeUnknown")

    def test_a_bound_task_sees_a_workers_request(self) -> None:
        saga = Saga("bound", app=app)
        saga.local_step(bound)
        run = given(saga.commit()).context(n=2).options(saga_id="order-7").run()
        run.expect_completed(n=3, eager=False, id="order-7~f0~1")

    def test_an_abort_is_not_retried(self) -> None:
        saga = Saga("aborts", app=app)
        saga.local_step(aborts)
        run = given(saga.commit()).context(n=2).run()
        run.expect_failed("aborts", AbortSaga).expect_attempts("aborts", 1)

    def test_nothing_is_left_on_a_task(self) -> None:
        tasks = [by_hand, class_based, bound, SHAPES.tasks["Task_auto"]]
        before = [attributes_of(task) for task in tasks]
        saga_of("class-based").step("step").fails(Broken).run()
        saga_of("retry by hand").run()
        order("Task_auto").step("step").fails(KeyError("no")).run()
        assert [attributes_of(task) for task in tasks] == before


def attributes_of(task: Any) -> dict[str, Any]:
    """Without what Celery keeps on a task that was called for the first time."""
    return {key: value for key, value in vars(task).items() if key != "_exec_options"}


def test_a_step_reads_its_keys() -> None:
    seen: list[str] = []

    @app.task(shared=False, name="kit.reads")
    def reads() -> None:
        seen.append(f"{saga_info().idempotency_key} {saga_info().attempt}")

    saga = Saga("reads", app=app)
    saga.local_step(reads, on_lost="rerun")
    order = given(saga.commit()).options(saga_id="order-7")
    order.step("reads").loses_its_worker(times=1).expect_completed()
    assert seen == ["order-7/reads/f/0 1", "order-7/reads/f/0 2"]
