"""Whether the code of today can finish the sagas that code of yesterday has started."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner

from celery_saga import AbortSaga, Saga, SagaManager
from celery_saga.core.execution import Direction
from celery_saga.core.plan import Call, Input
from celery_saga.ops.cli import saga as command
from celery_saga.ops.live_plans import Mismatch, check, problems_of
from celery_saga.stores.memory import MemoryStore


class Release:
    """An app with one version of the code; releases share the store."""

    def __init__(self, store: MemoryStore, **tasks: Callable[..., Any]) -> None:
        self.app = Celery("shop", broker="memory://", set_as_current=False)
        self.manager = SagaManager(self.app, storage=store)
        for name, body in tasks.items():
            body.__name__ = name  # Celery makes code from it
            self.app.task(body, name=f"shop.{name}", shared=False)

    def task(self, name: str) -> Any:
        return self.app.tasks[f"shop.{name}"]


def take(order_id: int) -> None: ...


def give_back(order_id: int) -> None: ...


def pay(total: float, card: str = "") -> None: ...


def pay_in_a_currency(total: float, currency: str, card: str = "") -> None: ...


def pay_by_invoice(total: float) -> None: ...


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def started(store: MemoryStore) -> Iterator[str]:
    """The id of a saga of yesterday, whose first step no worker has taken."""
    old = Release(store, take=take, give_back=give_back, pay=pay)
    saga = Saga("order", app=old.app)
    saga.local_step(old.task("take"), name="take").on_failure(old.task("give_back"))
    saga.local_step(old.task("pay"), name="pay")
    yield saga.commit().apply_async({"order_id": 7, "total": 1.0}, saga_id="o-7").id
    old.app.close()


def found(store: MemoryStore, **tasks: Callable[..., Any]) -> list[tuple[str, str]]:
    release = Release(store, **tasks)
    checked = check(release.app)
    assert checked.runs == 1
    assert {(each.saga, each.runs, each.example) for each in checked.found} <= {("order", 1, "o-7")}
    return [(each.step, each.problem.partition(":")[0]) for each in checked.found]


MISSING = "this code has no {} of that name"
NOT_TAKEN = "it takes no parameter {!r} any more, which is sent"
REQUIRED = "its parameter {!r} is required and is not sent"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"pay": lambda **anything: None}, []),
        ({"pay": lambda *args, **anything: None}, []),
        ({"pay": lambda total, card="", tip=0: None}, []),
        ({"pay": None}, [("pay", MISSING.format("task"))]),
        ({"give_back": None}, [("take", MISSING.format("compensation"))]),
        ({"pay": pay_by_invoice}, [("pay", NOT_TAKEN.format("card"))]),
        ({"pay": pay_in_a_currency}, [("pay", REQUIRED.format("currency"))]),
        (
            {"take": lambda number: None},
            [("take", NOT_TAKEN.format("order_id")), ("take", REQUIRED.format("number"))],
        ),
    ],
)
def test_changes_of_tasks(
    store: MemoryStore, started: str, changed: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    tasks = {"take": take, "give_back": give_back, "pay": pay, **changed}
    assert found(store, **{name: body for name, body in tasks.items() if body}) == expected


def test_sagas_that_have_ended_and_steps_that_are_over_do_not_count(
    store: MemoryStore, started: str
) -> None:
    release = Release(store, pay=pay)
    release.manager.cancel(started)
    assert release.manager.get(started).status == "COMPENSATED"
    assert check(release.app).runs == 0


def test_a_stuck_saga_counts(store: MemoryStore) -> None:
    old = Release(store, take=take, give_back=lambda order_id: 1 / 0, pay=lambda total: 1 / 0)
    old.app.conf.task_always_eager = True
    saga = Saga("order", app=old.app)
    step = saga.local_step(old.task("take"), name="take")
    step.on_failure(old.task("give_back"), max_attempts=1)
    saga.local_step(old.task("pay"), name="pay")
    assert saga.commit().apply_async({"order_id": 7, "total": 1}, saga_id="o-7").status == "STUCK"
    # Its first step and the failed one are over: no task of them is needed.
    assert found(store) == [("take", MISSING.format("compensation"))]


def test_a_saga_that_is_stuck_after_its_pivot_needs_its_step(store: MemoryStore) -> None:
    def refuse(total: float) -> None:
        raise AbortSaga("it is closed")

    old = Release(store, take=take, pay=refuse)
    old.app.conf.task_always_eager = True
    saga = Saga("order", app=old.app)
    saga.local_step(old.task("take"), name="take", pivot=True)
    saga.local_step(old.task("pay"), name="pay")
    assert saga.commit().apply_async({"order_id": 7, "total": 1}, saga_id="o-7").status == "STUCK"
    assert found(store, pay=pay) == []
    assert found(store) == [("pay", MISSING.format("task"))]


def test_runs_of_one_problem_are_counted(store: MemoryStore, started: str) -> None:
    old = Release(store, take=take)
    saga = Saga("other", app=old.app)
    saga.local_step(old.task("take"), name="take")
    saga.commit()
    for number in range(3):
        saga.apply_async({"order_id": number}, saga_id=f"x-{number}")
    release = Release(store, take=lambda: None, give_back=give_back, pay=pay)
    problem = "it takes no parameter 'order_id' any more, which is sent: keep the parameter"
    (_, other) = check(release.app).found
    assert other == Mismatch("other", "take", "shop.take", problem, 3, other.example)


def test_a_task_in_context_style_fits() -> None:
    release = Release(MemoryStore(), take=lambda context: None)
    call = Call("shop.take", style="context", inputs=(Input("tip", const=1),))
    assert problems_of(release.app, call, Direction.FORWARD) == ()


def test_the_command(store: MemoryStore, started: str) -> None:
    def run(release: Release, *options: str) -> Any:
        context = CLIContext(release.app, no_color=True, workdir=".")
        return CliRunner().invoke(command, ["check", *options], obj=context)

    ran = run(Release(store, take=take, give_back=give_back, pay=pay))
    assert (ran.exit_code, ran.output) == (0, "1 live sagas: this code can finish them\n")

    changed = Release(store, take=take, give_back=give_back)
    ran = run(changed)
    assert ran.exit_code == 1
    assert "shop.pay" in ran.output
    assert "keep one under the old name" in ran.output

    ran = run(changed, "--json")
    document = json.loads(ran.output)
    assert (ran.exit_code, document["runs"]) == (1, 1)
    assert [each["task"] for each in document["found"]] == ["shop.pay"]
