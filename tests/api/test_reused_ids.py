"""A new saga may get the id of a deleted one, and reports on the old one may come late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from celery.app.task import Context

from celery_saga import Saga, SagaManager, SagaResult
from celery_saga.core import events as ev
from celery_saga.core.execution import Claim, Direction, Failure, SagaExecution, StepRef
from celery_saga.errors import SagaExecutionNotFoundException
from celery_saga.runtime import Runtime

REF = StepRef((0,), Direction.FORWARD, 1)
OOPS = Failure("ValueError", "oops")


@pytest.fixture
def start() -> Iterator[Callable[[], SagaResult]]:
    app = Celery("again", broker="memory://", set_as_current=False)
    SagaManager(app, storage="memory://")

    @app.task(name="again.step", shared=False)
    def step() -> None: ...

    saga = Saga("again", app=app)
    saga.local_step(step, name="a").on_failure(step)
    saga.local_step(step, name="b")
    saga.commit()
    yield lambda: saga.apply_async({}, saga_id="order-7")
    app.close()


def old_and_new(start: Callable[[], SagaResult]) -> tuple[Runtime, SagaExecution, SagaResult]:
    """A saga as a late process knows it, and the one that has its id now."""
    runtime = start()._runtime
    old = runtime.store.claim("order-7", REF, Claim("old", "instance"), run_id=_run(runtime))
    assert isinstance(old, SagaExecution)
    runtime.store.delete("order-7")
    return runtime, old, start()


def _run(runtime: Runtime) -> str:
    found = runtime.store.load("order-7")
    assert found is not None
    return found.run_id


@pytest.mark.parametrize("claimed", [False, True])
@pytest.mark.parametrize(
    "event",
    [
        ev.StepSucceeded(9e9, REF, "old", {"n": 1}),
        ev.StepFailed(9e9, REF, OOPS, "old", effect=True),
        ev.StepReleased(9e9, REF, "old", 1, 9e9),
        ev.Overdue(9e9, ev.MessageState.MISSING),
    ],
)
def test_a_late_report_on_the_old_one_changes_nothing(start, claimed, event) -> None:
    runtime, old, new = old_and_new(start)
    if claimed:
        runtime.store.claim("order-7", REF, Claim("new", "instance"), run_id=_run(runtime))
    before = new.execution
    with pytest.raises(SagaExecutionNotFoundException):
        runtime.orchestrator.apply("order-7", event, old)
    assert new.execution == before


class Inbox:
    """A worker's heartbeat that delivers at once."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.missing = 0

    def submit(self, saga_id: str, report: Callable[[float], Any], run_id: str | None) -> bool:
        try:
            self._runtime.orchestrator.apply(saga_id, report(9e9), run_id=run_id)
        except SagaExecutionNotFoundException:
            self.missing += 1
        return True


def expired(task: Any, headers: dict[str, Any]) -> None:
    signals.task_revoked.send(task, request=Context(headers), expired=True)


def unknown(task: Any, headers: dict[str, Any]) -> None:
    message = SimpleNamespace(headers=headers)
    signals.task_unknown.send(task, id=headers["id"], message=message)


def lost(task: Any, headers: dict[str, Any]) -> None:
    task.request_stack.push(Context(headers))
    error = WorkerLostError("its process is lost")
    signals.task_failure.send(task, task_id=headers["id"], exception=error)
    task.request_stack.pop()


@pytest.mark.parametrize("signal", [expired, unknown, lost])
@pytest.mark.parametrize("old", [True, False])
def test_a_workers_report_on_a_message_counts_for_its_saga(start, old, signal) -> None:
    runtime, before, new = old_and_new(start)
    runtime.heartbeat = inbox = Inbox(runtime)
    known = new.execution
    run_id = before.run_id if old else known.run_id
    headers = {"id": REF.task_id("order-7"), "saga": {"plan": before.plan.hash, "run_id": run_id}}

    signal(runtime.app.tasks["again.step"], headers)

    assert inbox.missing == old
    assert (new.execution == known) is old
