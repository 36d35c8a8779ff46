"""Promise 15: branches run apart from each other, are joined once, and are compensated in order."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_saga import LocalSagaStep, Saga, SagaCompensated, SagaContext, SagaManager
from celery_saga.errors import JoinConflict
from celery_saga.stores.memory import MemoryStore
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late


def step(name: str, task: Any = late) -> LocalSagaStep:
    return LocalSagaStep(task, compensation, name=name)


@pytest.mark.worker
class TestOnAWorker:
    def group(self, site: Any, **options: Any) -> Saga:
        saga = Saga("branches", app=site.app)
        saga.parallel_step(step("a"), step("b"), step("c"), **options)
        saga.local_step(step("z"))
        return saga.commit()

    def test_the_next_step_is_sent_once(self, shared: Any) -> None:
        result = self.group(shared).delay()
        assert shared.settled(result) == "COMPLETED"
        assert shared.journal.began(result.id).count("z/f") == 1

    def test_a_failing_branch_withdraws_what_no_worker_has(self, shared: Any) -> None:
        """Both processes of the worker are busy, so the third branch waits for one."""
        result = self.group(shared).delay(hold=["a/f", "b/f"], fail=["a/f"])
        shared.journal.wait(result.id, "began", 2)
        shared.journal.open(result.id, "a/f")
        wait_for(lambda: result.failure is not None)  # before b's process is free for c
        shared.journal.open(result.id, "b/f")
        assert shared.settled(result) == "COMPENSATED"
        assert sorted(shared.journal.began(result.id)) == ["a/f", "b/c", "b/f"]

    @pytest.mark.parametrize("order", ["ab", "ba"])
    def test_compensations_have_the_reverse_order_of_completion(
        self, shared: Any, order: str
    ) -> None:
        saga = Saga("branches", app=shared.app)
        saga.parallel_step(step("a"), step("b")).local_step(step("z"))
        result = saga.commit().delay(hold=["a/f", "b/f"], fail=["z/f"])
        shared.journal.wait(result.id, "began", 2)
        first, second = order
        shared.journal.open(result.id, f"{first}/f")
        wait_for(lambda: result.progress[first] == "SUCCEEDED")
        shared.journal.open(result.id, f"{second}/f")
        assert shared.settled(result) == "COMPENSATED"
        assert shared.journal.began(result.id)[-2:] == [f"{second}/c", f"{first}/c"]


class Bench:
    """An app whose tasks write what their tests say."""

    def __init__(self) -> None:
        self.app = Celery("branches", broker="memory://", set_as_current=False)
        self.app.conf.update(task_always_eager=True, task_acks_late=True)
        SagaManager(self.app, storage=MemoryStore())
        self.calls: list[Any] = []
        self.number = 0

    def task(self, function: Any) -> Any:
        self.number += 1
        return self.app.task(function, shared=False, name=f"branches.{self.number}")

    def returns(self, value: Any) -> Any:
        def body() -> Any:
            return value

        return self.task(body)

    def reads(self, *keys: str) -> Any:
        """A task that notes what the context has."""

        def body(context: SagaContext) -> None:
            self.calls.append({key: context[key] for key in keys if key in context})

        return self.task(body)

    def failing(self) -> Any:
        def body() -> None:
            raise ValueError("declined")

        return self.task(body)

    def compensates(self) -> Any:
        """A compensation that notes what it gets for ``key``."""

        def body(key: Any = None, other: Any = None) -> None:
            self.calls.append((key, other))

        return self.task(body)

    def saga(self, *steps: Any, name: str = "inner") -> Saga:
        return Saga(name, steps=steps, app=self.app).commit()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_branch_sees_the_context_of_the_fork_and_its_own(bench: Bench) -> None:
    saga = Saga("views", app=bench.app)
    writes = LocalSagaStep(bench.returns("own"), returns="b")
    own = bench.saga(writes, bench.reads("a", "b", "given"))
    saga.parallel_step(LocalSagaStep(bench.returns("sibling"), returns="a"), own)
    saga.local_step(bench.reads("a", "b", "given"))
    saga.commit().delay(given=1).get()
    assert bench.calls == [{"b": "own", "given": 1}, {"a": "sibling", "b": "own", "given": 1}]


def test_equal_values_of_a_key_are_joined(bench: Bench) -> None:
    saga = Saga("equal", app=bench.app)
    value = {"key": {"x": 1, "y": [2]}}
    saga.parallel_step(bench.returns(value), bench.returns({"key": {"y": [2], "x": 1}}))
    assert saga.commit().delay().get()["key"] == value["key"]


def test_different_values_of_a_key_fail_the_saga(bench: Bench) -> None:
    saga = Saga("different", app=bench.app)
    saga.parallel_step(
        LocalSagaStep(bench.returns({"key": 1}), bench.compensates(), name="one"),
        LocalSagaStep(bench.returns({"key": 2}), bench.compensates(), name="two"),
    )
    with pytest.raises(
        SagaCompensated, match=r"'one' and 'two' wrote different values of 'key'"
    ) as found:
        saga.commit().delay().get()
    conflict = found.value.exception
    assert isinstance(conflict, JoinConflict)
    assert (conflict.key, conflict.branches) == ("key", ("one", "two"))
    assert bench.calls == [(2, None), (1, None)]


def test_a_compensation_reads_its_branch_as_it_was_when_its_step_ended(bench: Bench) -> None:
    """Neither later steps of the branch nor what siblings wrote reach it."""

    def replaces(key: str) -> str:
        return f"not {key}"

    saga = Saga("past", app=bench.app)
    branch = bench.saga(
        LocalSagaStep(bench.returns("first"), bench.compensates(), returns="key"),
        LocalSagaStep(bench.task(replaces), returns="key"),
    )
    saga.parallel_step(branch, LocalSagaStep(bench.returns("sibling"), returns="other"))
    saga.local_step(bench.failing())
    saga.commit().delay(other="at the fork")
    assert bench.calls == [("first", "at the fork")]


def test_a_compensation_of_an_item_gets_its_item(bench: Bench) -> None:
    saga = Saga("items", app=bench.app)
    saga.for_each(
        "items", LocalSagaStep(bench.returns(None), bench.compensates()), as_="key", parallel=True
    )
    saga.local_step(bench.failing())
    saga.commit().delay(items=["x", "y"])
    assert bench.calls == [("y", None), ("x", None)]


def test_the_list_of_a_loop_is_read_once(bench: Bench) -> None:
    def body(context: SagaContext) -> None:
        bench.calls.append(context["item"])
        context["items"] = [*context["items"], "more"]

    saga = Saga("once", app=bench.app)
    saga.for_each("items", bench.task(body))
    context = saga.commit().delay(items=["x", "y"]).get()
    assert bench.calls == ["x", "y"]
    assert context["items"] == ["x", "y", "more", "more"]


def test_a_condition_is_answered_once(bench: Bench) -> None:
    """What changes afterwards changes nothing of it."""

    def condition(total: int) -> bool:
        bench.calls.append(total)
        return total > 100

    saga = Saga("choice", app=bench.app)
    taken = bench.saga(LocalSagaStep(bench.returns(1), returns="total"), bench.reads("total"))
    saga.conditional_step().if_then(bench.task(condition), taken).else_then(bench.failing())
    result = saga.commit().delay(total=101)
    assert result.get()["total"] == 1
    assert bench.calls == [101, {"total": 1}]
