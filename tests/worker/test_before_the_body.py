"""What raises before the wrapper round a body is reached; on workers: test_failure_table.py."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.trace import build_tracer
from celery.exceptions import Ignore

from celery_saga import AbortSaga, Saga, SagaManager, SagaResult
from celery_saga.core.execution import Claim, Direction, StepRef
from celery_saga.errors import StoreUnavailable
from celery_saga.runtime import runtime_of

FIRST = StepRef((0,), Direction.FORWARD, 1)


class Picky(Task):
    """Raises before its body begins, if the test says so."""

    trouble: Any = None

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        if self.trouble is not None:
            raise self.trouble


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("before", broker="memory://", set_as_current=False)
    app.conf.update(saga_store_url="memory://", saga_store_timeout=0.2)
    SagaManager(app)
    yield app
    app.close()


class Fixture:
    """A saga of one step, whose message waits."""

    def __init__(self, app: Celery, **options: Any) -> None:
        self.app, self.bodies = app, 0

        @app.task(name="before.do", base=Picky, shared=False)
        def do() -> None:
            self.bodies += 1

        @app.task(name="before.compensation", base=Picky, shared=False)
        def compensation() -> None: ...

        self.task: Any = do
        self.compensation: Any = compensation
        saga = Saga("before", app=app)
        saga.local_step(do, name="a", **options).on_failure(compensation)
        self.saga = saga.commit()

    def start(self, **options: Any) -> SagaResult:
        return self.saga.apply_async({}, **options)

    def deliver(self, result: SagaResult, ref: StepRef = FIRST, **request: Any) -> None:
        """As a worker's process runs a message."""
        header = {"plan": result.execution.plan.hash, "run_id": result.execution.run_id}
        task_id = ref.task_id(result.id)
        request = {"id": task_id, "headers": {"saga": header}, "retries": 0, **request}
        build_tracer(self.task.name, self.task, app=self.app)(task_id, (), {}, request)


@pytest.fixture
def one(app: Celery) -> Fixture:
    return Fixture(app)


def test_it_fails_the_step(one: Fixture) -> None:
    result = one.start()
    one.task.trouble = PermissionError("no tenant")

    one.deliver(result)

    step = result.execution.steps[0]
    assert (result.status, step.status, step.effect) == ("COMPENSATED", "FAILED", False)
    assert str(step.error) == "builtins.PermissionError: no tenant"
    assert one.bodies == 0


@pytest.mark.parametrize("propagates", [False, True])
@pytest.mark.parametrize("where", ["do", "compensation"])
def test_eagerly(app: Celery, where: str, propagates: bool) -> None:
    app.conf.update(task_always_eager=True, task_eager_propagates=propagates)
    app.conf.saga_compensation_max_attempts = 2
    one = Fixture(app, compensate_on_failure=True)
    if where == "do":
        one.task.trouble = PermissionError("no tenant")
    else:
        one.task.run = lambda: 1 / 0
        one.compensation.trouble = PermissionError("no tenant")

    result = one.start()

    step = result.execution.steps[0]
    if where == "do":
        assert (result.status, step.status) == ("COMPENSATED", "FAILED")
        assert step.error.message == "no tenant"
    else:
        assert (result.status, step.status) == ("STUCK", "COMPENSATION_FAILED")
        assert (step.compensation_error.message, step.attempts) == ("no tenant", 2)


def test_an_abort_is_final(app: Celery) -> None:
    one = Fixture(app, retriable=True, max_attempts=5)
    result = one.start()
    one.task.trouble = AbortSaga("never")

    one.deliver(result)

    assert (result.status, result.execution.steps[0].attempts) == ("COMPENSATED", 1)


def test_a_message_without_our_header(one: Fixture) -> None:
    result = one.start()
    one.task.trouble = PermissionError("no tenant")

    one.deliver(result, headers=None)

    assert result.status == "COMPENSATED"


class TestNothingEndsByIt:
    def test_a_claim_of_another_delivery(self, one: Fixture) -> None:
        """Also one of the same worker."""
        result, runtime = one.start(), runtime_of(one.app)
        runtime.store.claim(result.id, FIRST, Claim("other", runtime.instance))
        one.task.trouble = PermissionError("no tenant")

        one.deliver(result)

        assert result.execution.steps[0].claim is not None
        assert result.status == "RUNNING"

    @pytest.mark.parametrize(
        "request_of_it",
        [
            {"ref": StepRef((0,), Direction.FORWARD, 0)},
            {"headers": {"saga": {"run_id": "another"}}},
        ],
        ids=["an older epoch", "an earlier run of that id"],
    )
    def test_a_stale_message(self, one: Fixture, request_of_it: dict[str, Any]) -> None:
        result = one.start(saga_id="reused")
        one.task.trouble = PermissionError("no tenant")

        one.deliver(result, **request_of_it)

        assert (result.status, result.execution.steps[0].attempts) == ("RUNNING", 0)

    def test_a_copy_of_a_message_that_was_retried_since(self, one: Fixture) -> None:
        result = one.start()
        one.task.run = lambda: one.task.retry(countdown=600)
        one.deliver(result)
        assert result.execution.steps[0].retries == 1
        one.task.trouble = PermissionError("no tenant")

        one.deliver(result)
        assert result.status == "RUNNING"

        one.deliver(result, retries=1)
        assert result.status == "COMPENSATED"

    def test_the_store_is_unavailable(self, one: Fixture, caplog: pytest.LogCaptureFixture) -> None:
        """It is not an outcome; the sweep sends the message again."""
        result, store = one.start(), runtime_of(one.app).store
        one.task.trouble = PermissionError("no tenant")

        def unavailable(*args: Any, **options: Any) -> Any:
            raise StoreUnavailable("unavailable")

        store.save = unavailable  # type: ignore[method-assign]
        with caplog.at_level(logging.WARNING, "celery_saga"):
            one.deliver(result)
        del store.save

        assert result.status == "RUNNING"
        assert "the store is unavailable" in caplog.text


@pytest.mark.parametrize("trouble", [ValueError("declined"), Ignore("ignored")])
def test_what_the_wrapper_has_reported_is_not_reported_again(
    one: Fixture, trouble: Exception
) -> None:
    result, store = one.start(), runtime_of(one.app).store
    loads: list[str] = []

    def load(saga_id: str, **options: Any) -> Any:
        loads.append(saga_id)
        return type(store).load(store, saga_id, **options)

    def body() -> None:
        loads.clear()
        raise trouble

    one.task.run = body
    store.load = load  # type: ignore[method-assign]
    one.deliver(result)
    del store.load

    assert loads == []
    assert result.execution.steps[0].status == "FAILED"


def test_tasks_that_are_no_steps(one: Fixture) -> None:
    """The store is not read because of them."""
    store, asked = runtime_of(one.app).store, []
    store.load = lambda *args, **options: asked.append(args)  # type: ignore[method-assign]
    one.task.trouble = PermissionError("no tenant")
    result = one.task.apply()
    assert result.state == "FAILURE"
    assert asked == []
