"""Promise 18: commit tasks are run when the last step has ended, until they succeed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from celery import Celery

from celery_saga import (
    AbortSaga,
    Const,
    DefinitionError,
    LocalSagaStep,
    Saga,
    SagaContext,
    SagaManager,
    SagaOperation,
    SagaPastPivot,
    saga_info,
    saga_step,
)
from celery_saga.stores.memory import MemoryStore
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late


@pytest.mark.worker
class TestOnAWorker:
    def saga(self, site: Any) -> Saga:
        saga = Saga("committing", app=site.app)
        for name in ("a", "b"):
            step = saga.local_step(late, name=name).on_failure(compensation)
            step.on_commit(late, retry_backoff=0.01)
        return saga.commit()

    def test_each_runs_once_behind_the_last_step(self, shared: Any) -> None:
        result = self.saga(shared).delay()
        assert shared.settled(result) == "COMPLETED"
        began = shared.journal.began(result.id)
        assert began[:2] == ["a/f", "b/f"]
        assert sorted(began[2:]) == ["a.commit/f", "b.commit/f"]

    def test_none_runs_in_a_saga_that_is_rolled_back(self, shared: Any) -> None:
        result = self.saga(shared).delay(fail=["b/f"])
        assert shared.settled(result) == "COMPENSATED"
        assert shared.journal.began(result.id) == ["a/f", "b/f", "a/c"]

    def test_nothing_is_rolled_back_any_more(self, shared: Any) -> None:
        result = self.saga(shared).delay(hold=["a.commit/f"])
        wait_for(lambda: result.progress["b.commit"] == "SUCCEEDED")
        with pytest.raises(SagaPastPivot, match="its on_commit tasks were dispatched"):
            result.cancel()
        shared.journal.open(result.id, "a.commit/f")
        assert shared.settled(result) == "COMPLETED"

    def test_one_whose_worker_is_killed_runs_again(self, site: Any) -> None:
        first = site.worker()
        result = self.saga(site).delay(hold=["a.commit/f"])
        site.journal.wait(result.id, "began", 4)
        wait_for(lambda: result.progress["b.commit"] == "SUCCEEDED")
        first.kill()
        site.worker()
        wait_for(lambda: site.journal.began(result.id).count("a.commit/f") == 2)
        site.journal.open(result.id, "a.commit/f")
        assert site.settled(result) == "COMPLETED"
        assert site.journal.began(result.id).count("b.commit/f") == 1


class Bench:
    """An eager app, and what its tasks have been given."""

    def __init__(self) -> None:
        self.app = Celery("commits", broker="memory://", set_as_current=False)
        self.app.conf.update(task_always_eager=True, task_acks_late=True)
        self.manager = SagaManager(self.app, storage=MemoryStore())
        self.calls: list[Any] = []
        self.broken = 0

        @self.app.task(name="commits.take", shared=False)
        def take(order_id: int) -> str:
            return f"taken-{order_id}"

        @self.app.task(name="commits.give_back", shared=False)
        def give_back(take: str | None = None) -> None:
            self.calls.append(("gave back", take))

        self.take, self.give_back = take, give_back

    def task(self, function: Any, **options: Any) -> Any:
        options.setdefault("name", f"commits.{function.__name__}")
        return self.app.task(function, shared=False, **options)

    def confirm(self, error: type[Exception] = RuntimeError) -> Any:
        def confirm(take: str, order_id: int) -> dict[str, str]:
            if self.broken:
                self.broken -= 1
                raise error("not now")
            self.calls.append((take, order_id))
            return {"take": "it is not stored"}

        return self.task(confirm)


@pytest.fixture
def bench() -> Bench:
    return Bench()


class Shape(NamedTuple):
    """A way to write a step with a commit task, and what the task is given."""

    id: str
    build: Callable[[Bench, Saga], Any]
    given: Any = ("taken-7", 7)


def _bound(bench: Bench) -> Any:
    def confirm(self: Any, take: str, order_id: int) -> None:
        bench.calls.append((take, order_id))

    return bench.task(confirm, bind=True)


def _coroutine(bench: Bench) -> Any:
    async def confirm(take: str, order_id: int) -> None:
        bench.calls.append((take, order_id))

    return bench.task(confirm)


def _whole(bench: Bench) -> Any:
    def confirm(context: SagaContext) -> None:
        bench.calls.append(dict(context))
        context["take"] = "it is not stored"

    return bench.task(confirm)


def _declared(bench: Bench, saga: Saga) -> None:
    task = saga_step(compensation=bench.give_back, on_commit=bench.confirm())(bench.take)
    saga.local_step(task)


def _named(bench: Bench, saga: Saga) -> None:
    bench.confirm()
    saga.local_step("commits.take", inputs=["order_id"]).on_commit(
        "commits.confirm", inputs=["take", "order_id"]
    )


def _renamed(bench: Bench, saga: Saga) -> None:
    inputs = {"take": "reservation", "order_id": Const("x")}
    saga.local_step(bench.take, returns="reservation").on_commit(bench.confirm(), inputs=inputs)


def _operation(bench: Bench, saga: Saga) -> None:
    saga.local_step(bench.take).on_commit(SagaOperation(bench.confirm(), {"order_id": 1}))


#: Where the plain function notes what it is given.
_plain_calls: list[Any] = []


@saga_step
def plain(context: SagaContext) -> None:
    """Registered while the module is imported, as workers do."""
    _plain_calls.append((context.take, context.order_id))


def _plain(bench: Bench, saga: Saga) -> None:
    bench.calls = _plain_calls
    saga.local_step(bench.take).on_commit(plain)


WHOLE = {"order_id": 7, "take": "taken-7"}
SHAPES = [
    Shape("a method", lambda b, saga: saga.local_step(b.take).on_commit(b.confirm())),
    Shape("behind on_failure()", lambda b, saga: saga.local_step(b.take).on_failure(b.give_back)
          .on_commit(b.confirm())),
    Shape("before it", lambda b, saga: saga.local_step(b.take).on_commit(b.confirm())
          .on_failure(b.give_back)),
    Shape("an option", lambda b, saga: saga.local_step(b.take, on_commit=b.confirm())),
    Shape("of on_execute()", lambda b, saga: saga.local_step()
          .on_execute(b.take, on_commit=b.confirm())),
    Shape("of a step object", lambda b, saga: saga.local_step(
        LocalSagaStep(b.take, b.give_back, on_commit=b.confirm()))),
    Shape("declared with the task", _declared),
    Shape("names of tasks", _named),
    Shape("a key and a constant", _renamed, ("taken-7", "x")),
    Shape("an operation", _operation, ("taken-7", 1)),
    Shape("a plain function", _plain),
    Shape("a bound task", lambda b, saga: saga.local_step(b.take).on_commit(_bound(b))),
    Shape("a coroutine", lambda b, saga: saga.local_step(b.take).on_commit(_coroutine(b))),
    Shape("the whole context", lambda b, saga: saga.local_step(b.take).on_commit(_whole(b)), WHOLE),
    Shape("a dropped result", lambda b, saga: saga.local_step(b.take, returns=False)
          .on_commit(b.confirm())),
    Shape("of the pivot", lambda b, saga: saga.local_step(b.take, pivot=True)
          .on_commit(b.confirm())),
    Shape("of a step that is retried", lambda b, saga: saga.local_step(
        b.take, retriable=True, max_attempts=2).on_commit(b.confirm(), max_attempts=3)),
    Shape("in a branch", lambda b, saga: saga.parallel_step(
        LocalSagaStep(b.take, on_commit=b.confirm()))),
    Shape("in a nested saga", lambda b, saga: saga.nested_step(
        Saga("inner", steps=[LocalSagaStep(b.take, on_commit=b.confirm())]).commit(),
        inputs=["order_id"], returns={"mine": "take"})),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.id)
def test_a_shape(bench: Bench, shape: Shape) -> None:
    saga = Saga("shapes", app=bench.app)
    shape.build(bench, saga)
    context = saga.commit().delay(order_id=7).get()
    assert bench.calls == [shape.given]
    assert "it is not stored" not in context.values()


def test_a_declared_one_can_be_declined(bench: Bench) -> None:
    task = saga_step(on_commit=bench.confirm())(bench.take)
    Saga("declined", app=bench.app, steps=[LocalSagaStep(task, on_commit=None)]).commit().delay(
        order_id=7
    ).get()
    assert bench.calls == []


def test_it_is_sent_where_its_step_is(bench: Bench) -> None:
    saga = Saga("places", app=bench.app)
    saga.local_step(bench.take, queue="a", priority=3).on_commit(bench.confirm(), queue="b")
    saga.local_step(bench.take, name="two", queue="c").on_commit(bench.give_back)
    calls = {step: call for path, call, _ in saga.commit().plan.calls() for step in [path]}
    assert calls[2, 0].options == {"queue": "b", "priority": 3}
    assert calls[2, 1].options == {"queue": "c"}


def test_it_finds_the_effect_of_its_step_by_its_key(bench: Bench) -> None:
    keys: list[str] = []

    def action() -> None:
        keys.append(saga_info().idempotency_key)

    def confirm() -> None:
        keys.extend([saga_info().forward_key, saga_info().idempotency_key])

    saga = Saga("keys", app=bench.app)
    saga.local_step(bench.task(action)).on_commit(bench.task(confirm))
    saga.commit().apply_async({}, saga_id="s-1").get()
    assert keys == ["s-1/action/f/0", "s-1/action/f/0", "s-1/action.commit/f/0"]


def test_it_is_tried_until_it_succeeds(bench: Bench) -> None:
    bench.broken = 7
    saga = Saga("later", app=bench.app)
    saga.local_step(bench.take).on_commit(bench.confirm(), retry_backoff=0)
    assert saga.commit().delay(order_id=7).status == "COMPLETED"
    assert bench.calls == [("taken-7", 7)]


class TestOneThatCannotSucceed:
    def stuck(self, bench: Bench) -> Any:
        bench.broken = 1
        saga = Saga("stuck", app=bench.app)
        saga.local_step(bench.take).on_failure(bench.give_back).on_commit(bench.confirm(AbortSaga))
        result = saga.commit().delay(order_id=7)
        assert (result.status, result.failure.step) == ("STUCK", "take.commit")
        return result

    def test_an_operator_lets_it_be_tried_again(self, bench: Bench) -> None:
        result = self.stuck(bench)
        assert bench.manager.retry(result.id, {"order_id": 8}).status == "COMPLETED"
        assert bench.calls == [("taken-7", 8)]

    def test_an_operator_has_done_it_by_hand(self, bench: Bench) -> None:
        result = self.stuck(bench)
        assert bench.manager.skip(result.id).status == "COMPLETED"
        assert bench.calls == []

    def test_it_is_not_rolled_back(self, bench: Bench) -> None:
        with pytest.raises(SagaPastPivot):
            self.stuck(bench).cancel()
        assert bench.calls == []


REFUSED = [
    (lambda step, task: step.on_commit(task).on_commit(task), "has an on_commit"),
    (lambda step, task: step.on_commit(task, returns="x"), "what it returns is not stored"),
    (lambda step, task: step.on_commit(task, pivto=True), "unknown option 'pivto'"),
    (lambda step, task: step.on_commit(task, max_attempts=0), "max_attempts: expected 1 or more"),
    (lambda step, task: step.on_commit([task]), "a list as a step"),
    (lambda step, task: step.on_commit(task).local_step(task, name="take.commit"),
     "two of its steps have the full name 'take.commit'"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_refused(bench: Bench, build: Any, text: str) -> None:
    saga = Saga("refused", app=bench.app)

    def start() -> None:
        build(saga.local_step(bench.take), bench.give_back)
        saga.commit().delay(order_id=7)

    with pytest.raises(DefinitionError, match=text):
        start()
