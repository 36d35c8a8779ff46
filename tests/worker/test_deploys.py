"""Deploys under running sagas: they end by their own plans, or say what they lack.

All sagas of a table wait for a signal while the worker is replaced by one of another version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from celery_saga import (
    ConditionalSagaStep,
    LocalSagaStep,
    Saga,
    SagaManager,
    SagaResult,
)
from celery_saga.core.decide.repair import obstacle_of
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late
from tests.worker.harness import Journal, Site
from tests.worker.servers import serving

pytestmark = [pytest.mark.worker, pytest.mark.timeout(300)]

APP = "tests.worker.apps.versions"
INPUTS: dict[str, Any] = {"inputs": ["hold", "fail"]}


def step(name: str, task: Any = late, **options: Any) -> LocalSagaStep:
    return LocalSagaStep(task, compensation, name=name, **options)


def named(task: str, name: str = "b", **options: Any) -> LocalSagaStep:
    return LocalSagaStep(f"versions.{task}", name=name, **INPUTS, **options)


def inner(*steps: LocalSagaStep, app: Any = None) -> Saga:
    return Saga("inner", steps=steps, app=app).commit()


FUNCTION = "saga:tests.worker.apps.versions.removed_function"

#: Adds what comes behind the wait.
Rest = Callable[[Saga], Any]


def chain(*steps: Callable[[], LocalSagaStep]) -> Rest:
    return lambda saga: [saga.local_step(each()) for each in steps]


class Change(NamedTuple):
    """What a deploy does to a saga of which a run is under way.

    Args:
        id: of the row.
        old, new: what comes behind its wait, before and after; ``None``: the saga is removed.
        bodies: that the run has behind the wait; those of one group in any order.
        fail: the steps that fail.
        status: of its end.
    """

    id: str
    old: Rest
    new: Rest | None
    bodies: str
    fail: str = ""
    status: str = "COMPLETED"


A, B, C = (lambda name=name: step(name) for name in "abc")
BARE = lambda: LocalSagaStep(late, name="b")  # noqa: E731


def choice(*names: str) -> Rest:
    def add(saga: Saga) -> Any:
        made: ConditionalSagaStep = saga.conditional_step()
        for name in names:
            made.if_then("versions.yes", step(name), inputs=[])

    return add


CHANGES = [
    Change("a step is added", chain(B), chain(B, C), "b/f"),
    Change("a step is removed", chain(B, C), chain(C), "b/f c/f"),
    Change("steps change places", chain(B, C), chain(C, B), "b/f c/f"),
    Change("a step is renamed", chain(B), chain(C), "b/f"),
    Change("a step gets a compensation", chain(BARE, C), chain(B, C), "b/f c/f a/c", "c/f",
           "COMPENSATED"),
    Change("a step loses its compensation", chain(B, C), chain(BARE, C), "b/f c/f b/c a/c", "c/f",
           "COMPENSATED"),
    Change("the saga is removed", chain(B), None, "b/f"),
    Change("a branch is removed", lambda saga: saga.parallel_step(B(), C()),
           lambda saga: saga.parallel_step(B()), "b/f c/f"),
    Change("a branch is added", lambda saga: saga.parallel_step(B()),
           lambda saga: saga.parallel_step(B(), C()), "b/f"),
    Change("the alternatives of a choice change", choice("b", "c"), choice("c"), "b/f"),
    Change("the body of a loop changes", lambda saga: saga.for_each("items", B()),
           lambda saga: saga.for_each("items", C()), "b[0]/f b[1]/f"),
    Change("a nested saga gets other steps", lambda saga: saga.nested_step(inner(B())),
           lambda saga: saga.nested_step(inner(C())), "inner.b/f"),
    Change("a nested saga becomes a step", lambda saga: saga.nested_step(inner(B())), chain(B),
           "inner.b/f"),
    Change("a commit task is removed", lambda saga: saga.local_step(B()).on_commit(late),
           chain(B), "b/f b.commit/f"),
    Change("a task is renamed, and its old name is kept", chain(lambda: named("old_name")),
           chain(lambda: named("new_name")), "b/f"),
]  # fmt: skip


class Lack(NamedTuple):
    """A task that a deploy has removed, which a run still needs.

    Args:
        says: what the saga says it lacks.
        status: of its end, when the task is back and an operator has it tried again.
    """

    id: str
    old: Rest
    step: str
    says: str = "no worker knows task 'versions.removed'"
    fail: str = ""
    status: str = "COMPLETED"


LACKS = [
    Lack("of an action", chain(lambda: named("removed")), "b"),
    Lack("of a compensation",
         chain(lambda: LocalSagaStep(late, name="b").on_failure("versions.removed", **INPUTS), C),
         "b", fail="c/f", status="COMPENSATED"),
    Lack("of a branch", lambda saga: saga.parallel_step(C(), named("removed")), "b"),
    Lack("of an item", lambda saga: saga.for_each("items", named("removed")), "b[0]"),
    Lack("of a commit task",
         lambda saga: saga.local_step(B()).on_commit("versions.removed", **INPUTS),
         "b.commit"),
    Lack("a plain function",
         lambda saga: saga.local_step(FUNCTION, name="b", context=True),
         "b", says=f"no worker knows task {FUNCTION!r}"),
]  # fmt: skip


class Fleet:
    """Runs that wait, and the worker of one version after the other."""

    def __init__(self, site: Site) -> None:
        self.site = site
        # A task that no worker knows is offered a second time after five seconds.
        self.app = site.new_app(saga_unknown_task_grace=1.0)
        self.manager = SagaManager(self.app)

    def saga(self, name: str, rest: Rest) -> Saga:
        saga = Saga(name, app=self.app, steps=[step("a")])
        saga.wait_for("deployed")
        rest(saga)
        return saga.commit()

    def start(self, name: str, rest: Rest, fail: str) -> SagaResult:
        context = {"hold": [], "fail": fail.split(), "items": [1, 2]}
        return self.saga(name, rest).delay(**context)

    def deploy(self, version: str) -> None:
        for worker in self.site.workers:
            if worker.process.alive:
                worker.process.stop()
        self.site.worker(app=APP, env={"SHOP_VERSION": version})

    def bodies(self, result: SagaResult) -> list[str]:
        return self.site.journal.began(result.id)[1:]


@pytest.fixture(scope="module")
def fleet(journal: Journal, folder: Path) -> Iterator[Fleet]:
    with serving() as server:
        site = Site(server.url(), journal, folder)
        try:
            yield Fleet(site)
        finally:
            site.close()


@pytest.fixture(scope="module")
def runs(fleet: Fleet) -> dict[str, SagaResult]:
    fleet.deploy("1")
    rows = [*CHANGES, *LACKS]
    found = {row.id: fleet.start(row.id, row.old, row.fail) for row in rows}
    for result in found.values():
        wait_for(lambda result=result: result.progress["deployed"] == "WAITING")
    fleet.deploy("2")
    for change in CHANGES:
        if change.new is not None:
            fleet.saga(change.id, change.new)  # what a process that starts sagas has from now on
    for result in found.values():
        result.signal("deployed")
    return found


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.id)
def test_a_run_ends_by_its_own_plan(
    fleet: Fleet, runs: dict[str, SagaResult], change: Change
) -> None:
    result = runs[change.id]
    assert fleet.site.settled(result) == change.status
    assert sorted(fleet.bodies(result)) == sorted(change.bodies.split())


@pytest.mark.parametrize("lack", LACKS, ids=lambda lack: lack.id)
def test_a_run_says_what_it_lacks(fleet: Fleet, runs: dict[str, SagaResult], lack: Lack) -> None:
    result = runs[lack.id]
    assert fleet.site.settled(result) == "STUCK"
    obstacle = obstacle_of(result.execution)
    assert obstacle is not None
    assert obstacle.step == lack.step
    assert lack.says in obstacle.cause


@pytest.fixture(scope="module")
def repaired(fleet: Fleet, runs: dict[str, SagaResult]) -> dict[str, SagaResult]:
    for lack in LACKS:
        assert fleet.site.settled(runs[lack.id]) == "STUCK"
    fleet.deploy("3")
    for lack in LACKS:
        fleet.manager.retry(runs[lack.id].id)
    return runs


@pytest.mark.parametrize("lack", LACKS, ids=lambda lack: lack.id)
def test_it_continues_when_the_task_is_back(
    fleet: Fleet, repaired: dict[str, SagaResult], lack: Lack
) -> None:
    assert fleet.site.settled(repaired[lack.id]) == lack.status
