"""Branches, choices, loops and nested sagas on real workers."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from celery_saga import LocalSagaStep, Saga, SagaCompensated, SagaManager, SagaResult
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, early, late

pytestmark = pytest.mark.worker


@pytest.fixture
def trees(flows: Any) -> Any:
    """The sagas of trees, in the process of the tests."""
    return importlib.import_module("tests.worker.apps.trees")


def ended(journal: Any, result: SagaResult, direction: str) -> list[str]:
    """The steps whose bodies have ended in a direction, in that order."""
    lines = journal.said(result.id, "ended")
    return [line["step"] for line in lines if line["direction"] == direction]


def reported(result: SagaResult) -> list[str]:
    """The steps that succeeded, in the order in which that was saved."""
    records = [step for step in result.execution.steps if step.ended_at and step.error is None]
    return [step.name for step in sorted(records, key=lambda step: step.ended_at or 0.0)]


class TestParallel:
    def test_all_branches_run_before_the_next_step(self, trees: Any, shared: Any) -> None:
        result = trees.group.delay()
        context = result.get(timeout=40)
        done = ended(shared.journal, result, "f")
        assert (done[0], done[-1]) == ("a", "f")
        assert sorted(done[1:-1]) == ["b", "e", "inner.c", "inner.d"]
        assert done.index("inner.c") < done.index("inner.d")
        assert dict(context) == {
            "a": "a",
            "b": "b",
            "c": "inner.c",
            "d": "inner.d",
            "e": "e",
            "f": "f",
        }

    def test_they_run_at_the_same_time(self, trees: Any, shared: Any) -> None:
        """Two of them hold both processes of the worker at once."""
        result = trees.first.delay(hold=["both.a/f", "both.b/f"])
        shared.journal.wait(result.id, "began", 2)
        for gate in ("both.a/f", "both.b/f"):
            shared.journal.open(result.id, gate)
        assert shared.settled(result) == "COMPLETED"

    def test_a_failing_branch_is_compensated_in_reverse_order_of_completion(
        self, trees: Any, shared: Any
    ) -> None:
        """Its siblings end first, whatever they are at."""
        result = trees.group.delay(hold=["b/f"], fail=["inner.d/f"])
        shared.journal.wait(result.id, "began", 4)
        shared.journal.open(result.id, "b/f")
        with pytest.raises(SagaCompensated) as caught:
            result.get(timeout=40)
        assert caught.value.step == "inner.d"
        assert "f" not in ended(shared.journal, result, "f")
        back = ended(shared.journal, result, "c")
        assert back == list(reversed([name for name in reported(result) if name in back]))
        assert {"a", "b", "inner.c"} <= set(back)
        assert "inner.d" not in back

    def test_compensations_of_branches_at_the_same_time(self, trees: Any, shared: Any) -> None:
        gates = ["a/c", "b/c"]
        result = trees.together.delay(fail=["z/f"], hold=gates)
        wait_for(lambda: {*gates} <= {*shared.journal.began(result.id)})
        for gate in gates:
            shared.journal.open(result.id, gate)
        assert shared.settled(result) == "COMPENSATED"
        back = ended(shared.journal, result, "c")
        assert back.index("inner.d") < back.index("inner.c")

    def test_a_group_of_100(self, trees: Any, shared: Any) -> None:
        context = trees.many.delay().get(timeout=120)
        assert dict(context) == {f"b{number}": f"b{number}" for number in range(100)}

    def test_a_group_of_100_with_a_failing_branch(self, trees: Any, shared: Any) -> None:
        result = trees.many.delay(fail=["b50/f"])
        assert shared.settled(result, timeout=120) == "COMPENSATED"
        forward = ended(shared.journal, result, "f")
        assert sorted(ended(shared.journal, result, "c")) == sorted(forward)


class TestLoop:
    def test_100_items_at_the_same_time(self, trees: Any, shared: Any) -> None:
        result = trees.loop.delay(items=list(range(100)))
        assert result.get(timeout=120)["doubled"] == [2 * number for number in range(100)]
        assert list(result.progress)[:3] == ["a", "double[0]", "double[1]"]

    def test_100_items_one_after_the_other(self, trees: Any, shared: Any) -> None:
        result = trees.in_turn.delay(items=list(range(100)))
        assert result.get(timeout=120)["doubled"] == [2 * number for number in range(100)]
        done = ended(shared.journal, result, "f")
        assert done == [*(f"double[{number}]" for number in range(100)), "z"]

    def test_it_is_compensated_per_item(self, trees: Any, shared: Any) -> None:
        result = trees.in_turn.delay(items=[1, 2, 3], fail=["double[2]/f"])
        with pytest.raises(SagaCompensated) as caught:
            result.get(timeout=40)
        assert caught.value.step == "double[2]"
        assert ended(shared.journal, result, "c") == ["double[1]", "double[0]"]

    def test_each_item_has_a_key_of_its_own(self, trees: Any, shared: Any) -> None:
        result = trees.loop.delay(items=[1, 2])
        result.get(timeout=40)
        keys = {line["idempotency_key"] for line in shared.journal.said(result.id, "began")}
        assert {f"{result.id}/double[0]/f/0", f"{result.id}/double[1]/f/0"} <= keys

    @pytest.mark.parametrize("items", ["abc", list(range(1001))], ids=["a text", "too many"])
    def test_bad_items_fail_the_saga(self, trees: Any, shared: Any, items: Any) -> None:
        result = trees.loop.delay(items=items)
        with pytest.raises(SagaCompensated) as caught:
            result.get(timeout=40)
        assert caught.value.step == "for_each"
        assert ended(shared.journal, result, "c") == ["a"]

    def test_bad_items_of_the_first_node_end_it_at_once(self, trees: Any, shared: Any) -> None:
        with pytest.raises(SagaCompensated, match="expected a list"):
            trees.in_turn.delay(items=7).get(timeout=40)


class TestNested:
    def test_inputs_and_returns(self, trees: Any, shared: Any) -> None:
        context = trees.nested.delay(total=7).get(timeout=40)
        assert dict(context) == {
            "total": 7,
            "a": "a",
            "seen": ["amount"],
            "payment": "seeing.paid",
        }

    def test_it_may_be_the_first_node(self, trees: Any, shared: Any) -> None:
        result = trees.first.delay()
        assert dict(result.get(timeout=40)) == {"a": "both.a", "b": "both.b"}

    def test_with_a_countdown(self, trees: Any, shared: Any) -> None:
        result = trees.first.apply_async({}, countdown=0.5)
        assert dict(result.get(timeout=40)) == {"a": "both.a", "b": "both.b"}
        began = [step.started_at for step in result.execution.steps]
        assert min(began) >= result.execution.created_at + 0.5


class TestChoice:
    @pytest.mark.parametrize(
        ("total", "taken"),
        [(101, ["large.c", "large.d"]), (1, ["small"])],
        ids=["the first", "otherwise"],
    )
    def test_a_function_decides(
        self, trees: Any, shared: Any, total: int, taken: list[str]
    ) -> None:
        result = trees.choice.delay(total=total)
        result.get(timeout=40)
        assert ended(shared.journal, result, "f") == ["a", *taken, "z"]

    def test_an_alternative_may_be_an_async_function(self, trees: Any, shared: Any) -> None:
        assert trees.choice.delay(total=-1, name="ann").get(timeout=40)["greeting"] == "hello ann"

    def test_an_error_of_a_condition_fails_the_step(self, trees: Any, shared: Any) -> None:
        result = trees.choice.delay(total=None)
        with pytest.raises(SagaCompensated, match="the total is not known") as caught:
            result.get(timeout=40)
        assert caught.value.step == "way"
        assert ended(shared.journal, result, "c") == ["a"]


class TestRequests:
    def test_a_cancel_lets_all_branches_end(self, trees: Any, shared: Any) -> None:
        result = trees.first.delay(hold=["both.a/f", "both.b/f"])
        shared.journal.wait(result.id, "began", 2)
        assert result.cancel()
        for gate in ("both.b/f", "both.a/f"):
            shared.journal.open(result.id, gate)
        assert shared.settled(result) == "COMPENSATED"
        assert sorted(ended(shared.journal, result, "c")) == ["both.a", "both.b"]

    def test_a_cancel_that_kills_them(self, trees: Any, shared: Any) -> None:
        result = trees.first.delay(hold=["both.a/f", "both.b/f"])
        shared.journal.wait(result.id, "began", 2)
        assert result.cancel(terminate=True)
        assert shared.settled(result) == "COMPENSATED"
        assert ended(shared.journal, result, "f") == []
        assert sorted(ended(shared.journal, result, "c")) == ["both.a", "both.b"]

    def test_a_pause_between_two_branches(self, trees: Any, shared: Any) -> None:
        result = trees.group.delay(hold=["b/f"])
        shared.journal.wait(result.id, "began", 2)
        manager = SagaManager(shared.app)
        manager.pause(result.id)
        shared.journal.open(result.id, "b/f")
        wait_for(lambda: "RUNNING" not in result.progress.values())
        assert result.status == "PAUSED"
        manager.resume(result.id)
        assert shared.settled(result) == "COMPLETED"

    def test_a_deadline(self, trees: Any, shared: Any) -> None:
        result = trees.first.apply_async({"hold": ["both.a/f"]}, deadline=1)
        wait_for(lambda: result.execution.rollback_reason is not None)
        shared.journal.open(result.id, "both.a/f")
        assert shared.settled(result) == "COMPENSATED"

    def test_a_start_by_message(self, trees: Any, shared: Any) -> None:
        started = trees.first.s().apply_async()
        assert started.get(timeout=40) == {"a": "both.a", "b": "both.b"}


@pytest.mark.parametrize("way", ["one by one", "one script"])
def test_both_ways_to_write(sites: Any, way: str) -> None:
    """Messages of several branches, published after the save or stored with it."""
    site = sites[way]
    saga = Saga("ways", app=site.app)
    branches = [LocalSagaStep(late, compensation, name=f"b{number}") for number in range(20)]
    saga.parallel_step(*branches).local_step(LocalSagaStep(late, name="z")).commit()
    good, bad = saga.delay(), saga.delay(fail=["z/f"])
    site.worker()
    assert site.settled(good, timeout=90) == "COMPLETED"
    assert site.settled(bad, timeout=90) == "COMPENSATED"
    began = site.journal.began(bad.id)
    assert sorted(began) == sorted(
        ["z/f", *(f"b{number}/{way}" for number in range(20) for way in "fc")]
    )


class TestKills:
    def saga(self, site: Any, task: Any) -> Saga:
        saga = Saga("site", app=site.app)
        saga.parallel_step(
            LocalSagaStep(task, compensation, name="a"), LocalSagaStep(late, compensation, name="b")
        )
        return saga.local_step(LocalSagaStep(late, compensation, name="z")).commit()  # type: ignore[no-any-return]

    def test_a_branch_whose_process_is_killed_runs_again(self, site: Any) -> None:
        result = self.saga(site, late).delay(hold=["a/f"])
        site.worker()
        site.journal.wait(result.id, "began", 2)
        began = site.journal.said(result.id, "began")
        site.kill_child(next(line for line in began if line["step"] == "a"))
        site.journal.open(result.id, "a/f", times=2)
        assert site.settled(result) == "COMPLETED"
        assert sorted(site.journal.began(result.id)) == ["a/f", "a/f", "b/f", "z/f"]

    def test_one_that_runs_at_most_once_is_compensated_with_its_siblings(self, site: Any) -> None:
        result = self.saga(site, early).delay(hold=["a/f", "b/f"])
        site.worker()
        site.journal.wait(result.id, "began", 2)
        began = site.journal.said(result.id, "began")
        site.kill_child(next(line for line in began if line["step"] == "a"))
        site.journal.open(result.id, "b/f")
        assert site.settled(result) == "COMPENSATED"
        assert sorted(site.journal.began(result.id)) == ["a/c", "a/f", "b/c", "b/f"]
