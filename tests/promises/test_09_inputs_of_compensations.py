"""A compensation sees its own step: its result, and then the context as it was when it ended.

What users' steps return and read, each with a failure behind it, on a store that reads whole sagas
and on one that reads parts of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery

from celery_saga import Saga, SagaContext, SagaManager, SagaResult
from celery_saga.testing.embedded import EmbeddedValkey

_numbers = itertools.count(1)


class Bench:
    """An app whose tasks note what they are called with."""

    def __init__(self, url: str) -> None:
        number = next(_numbers)
        self.name = f"inputs{number}"
        self.app = Celery(self.name, broker="memory://", set_as_current=False)
        self.app.conf.update(
            task_always_eager=True, saga_store_url=url, saga_key_prefix=f"{self.name}:"
        )
        self.manager = SagaManager(self.app)
        self.calls: list[tuple[Any, ...]] = []
        #: Seconds are not waited for, and compensations fail once for good.
        self.app.conf.saga_compensation_max_attempts = 1

    def task(self, function: Callable[..., Any]) -> Any:
        return self.app.task(function, shared=False, name=f"{self.name}.{next(_numbers)}")

    def makes(self, result: Any) -> Any:
        """A step's task that returns ``result``, or raises it."""

        def make() -> Any:
            if isinstance(result, BaseException):
                raise result
            return result

        return self.task(make)

    def compensates(self, name: str, default: Any = "required") -> Any:
        """A compensation that takes ``id``."""
        if default == "required":

            def compensation(id: Any) -> None:
                self.calls.append((name, id))

            return self.task(compensation)

        def compensation_or_not(id: Any = default) -> None:
            self.calls.append((name, id))

        return self.task(compensation_or_not)

    def fails(self) -> Any:
        return self.makes(LookupError("no"))

    def run(self, *steps: tuple[Any, ...], **context: Any) -> SagaResult:
        """Steps are a task, its compensation or None, options of the step, and of the latter."""
        saga = Saga(f"{self.name}.{next(_numbers)}", app=self.app)
        for number, (task, compensation, *options) in enumerate(steps):
            step = saga.local_step(task, **{"name": f"s{number}", **(options[0:1] or [{}])[0]})
            if compensation is not None:
                step.on_failure(compensation, **(options[1] if len(options) > 1 else {}))
        return saga.commit().delay(**context)


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest, valkey: EmbeddedValkey) -> Iterator[Bench]:
    made = Bench("memory://" if request.param == "memory" else valkey.url(9))
    yield made
    made.app.close()


# Warnings of keys that are replaced are for another test.
pytestmark = pytest.mark.filterwarnings("ignore::celery_saga.errors.DefinitionWarning")


def test_two_results_under_one_key(bench: Bench) -> None:
    result = bench.run(
        (bench.makes({"id": "vm-1"}), bench.compensates("destroy_vm")),
        (bench.makes({"id": "disk-9"}), bench.compensates("destroy_disk")),
        (bench.fails(), None),
    )
    assert bench.calls == [("destroy_disk", "disk-9"), ("destroy_vm", "vm-1")]
    assert result.status == "COMPENSATED"
    assert result.context["id"] == "disk-9"


def test_the_same_task_twice(bench: Bench) -> None:
    numbers = itertools.count(1)

    def count() -> dict[str, int]:
        return {"id": next(numbers)}

    make = bench.task(count)
    compensation = bench.compensates("rm")
    bench.run((make, compensation), (make, compensation), (bench.fails(), None))
    assert bench.calls == [("rm", 2), ("rm", 1)]


def test_one_key_for_two_results(bench: Bench) -> None:
    compensation = {"inputs": {"id": "r"}}
    bench.run(
        (bench.makes("one"), bench.compensates("first"), {"returns": "r"}, compensation),
        (bench.makes("two"), bench.compensates("second"), {"returns": "r"}, compensation),
        (bench.fails(), None),
    )
    assert bench.calls == [("second", "two"), ("first", "one")]


@pytest.mark.parametrize("returns", [False, "vm"])
@pytest.mark.parametrize("value", [{"id": "vm-1", "size": 3}, {"id": None}], ids=str)
def test_what_the_context_does_not_get(bench: Bench, returns: Any, value: Any) -> None:
    """The compensation has its step's result, however that is stored."""
    result = bench.run(
        (bench.makes(value), bench.compensates("destroy"), {"returns": returns}),
        (bench.fails(), None),
        id="another",
    )
    assert bench.calls == [("destroy", value["id"])]
    assert result.context["id"] == "another"


def test_a_plain_result_that_is_dropped_is_under_the_steps_name(bench: Bench) -> None:
    compensation = {"inputs": {"id": "s0"}}
    result = bench.run(
        (bench.makes("vm-1"), bench.compensates("destroy"), {"returns": False}, compensation),
        (bench.fails(), None),
    )
    assert bench.calls == [("destroy", "vm-1")]
    assert "s0" not in result.context


def test_a_path_into_the_result(bench: Bench) -> None:
    compensation = {"inputs": {"id": ("vm", "id")}}
    bench.run(
        (bench.makes({"id": "vm-1"}), bench.compensates("a"), {"returns": "vm"}, compensation),
        (bench.makes({"id": "vm-2"}), bench.compensates("b"), {"returns": "vm"}, compensation),
        (bench.fails(), None),
    )
    assert bench.calls == [("b", "vm-2"), ("a", "vm-1")]


def test_an_input_that_a_later_step_overwrites(bench: Bench) -> None:
    bench.run(
        (bench.makes(None), bench.compensates("release")),
        (bench.makes({"id": None}), None),
        (bench.makes({"id": "other"}), None),
        (bench.fails(), None),
        id=7,
    )
    assert bench.calls == [("release", 7)]


def test_an_input_that_its_own_step_overwrites(bench: Bench) -> None:
    """Its own result comes first."""
    bench.run(
        (bench.makes({"id": "new"}), bench.compensates("release")), (bench.fails(), None), id="old"
    )
    assert bench.calls == [("release", "new")]


@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_an_input_that_a_later_step_removes(bench: Bench, how: str) -> None:
    def drop(context: SagaContext) -> Any:
        if how == "emptied":
            return {}
        del context["id"]
        return None

    result = bench.run(
        (bench.makes(None), bench.compensates("release")),
        (bench.task(drop), None, {"context": True}),
        (bench.fails(), None),
        id=7,
    )
    assert bench.calls == [("release", 7)]
    assert "id" not in result.context


def test_a_key_that_only_a_later_step_brings(bench: Bench) -> None:
    bench.run(
        (bench.makes(None), bench.compensates("release", default="none")),
        (bench.makes({"id": "later"}), None),
        (bench.fails(), None),
    )
    assert bench.calls == [("release", "none")]


def test_a_result_that_lacks_the_key(bench: Bench) -> None:
    """Then the context, as it was when the step ended."""
    bench.run(
        (bench.makes({"size": 3}), bench.compensates("release")),
        (bench.makes({"id": 8}), None),
        (bench.fails(), None),
        id=7,
    )
    assert bench.calls == [("release", 7)]


def test_a_result_that_lacks_the_key_and_nothing_else_has_it(bench: Bench) -> None:
    result = bench.run(
        (bench.makes({"size": 3}), bench.compensates("release")),
        (bench.makes({"id": 8}), None),
        (bench.fails(), None),
    )
    assert bench.calls == []
    assert result.status == "STUCK"
    error = result.execution.steps[0].compensation_error
    assert error is not None
    assert "'id'" in str(error)


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded(), MemoryError()], ids=repr)
def test_an_unknown_outcome(bench: Bench, error: BaseException) -> None:
    """Without a result: the context as it was when the step started, else the default."""
    bench.run((bench.makes(error), bench.compensates("find", default=None)))
    bench.run((bench.makes(error), bench.compensates("find", default=None)), id="given")
    assert bench.calls == [("find", None), ("find", "given")]


class TestUnknownWhereAnotherHasTheKey:
    """A compensation does not get what another step returned in place of its own step's result.

    Known keys of a step's result: that of ``returns=``, the step's name, and what the same task has
    returned elsewhere in the saga. Where the outcome is unknown, they are left to the default.
    """

    def maker(self, bench: Bench, *results: Any) -> Any:
        """A task that returns one after the other, or raises it."""
        found = iter(results)

        def make() -> Any:
            result = next(found)
            if isinstance(result, BaseException):
                raise result
            return result

        return bench.task(make)

    def test_returns_of_another_step(self, bench: Bench) -> None:
        compensation = {"inputs": {"id": "r"}}
        steps = [
            (bench.makes("one"), bench.compensates("first"), {"returns": "r"}, compensation),
            (self.lost(bench), bench.compensates("second", None), {"returns": "r"}, compensation),
        ]
        assert bench.run(*steps).status == "COMPENSATED"
        assert bench.calls == [("second", None), ("first", "one")]

    def lost(self, bench: Bench) -> Any:
        return bench.makes(SoftTimeLimitExceeded())

    def test_a_required_one_is_for_an_operator(self, bench: Bench) -> None:
        compensation = {"inputs": {"id": "r"}}
        result = bench.run(
            (bench.makes("one"), bench.compensates("first"), {"returns": "r"}, compensation),
            (self.lost(bench), bench.compensates("second"), {"returns": "r"}, compensation),
        )
        assert bench.calls == [("first", "one")]
        assert result.status == "STUCK"
        assert "'r'" in str(result.execution.steps[1].compensation_error)
        bench.manager.retry(result.id, {"r": "found"})
        assert bench.calls == [("first", "one"), ("second", "found")]
        assert result.status == "COMPENSATED"

    @pytest.mark.parametrize("options", [{"returns": "id"}, {"name": "id"}], ids=str)
    def test_the_caller_has_given_that_key(self, bench: Bench, options: Any) -> None:
        bench.run((self.lost(bench), bench.compensates("find", None), options), id="another")
        assert bench.calls == [("find", None)]

    @pytest.mark.parametrize("returns", [None, False, "vm"])
    def test_the_same_task_before(self, bench: Bench, returns: Any) -> None:
        make = self.maker(bench, {"id": "vm-1"}, SoftTimeLimitExceeded())
        rm = bench.compensates("rm", None)
        bench.run((make, rm, {"returns": returns}), (make, rm, {"returns": returns}))
        assert bench.calls == [("rm", None), ("rm", "vm-1")]

    def test_the_same_task_for_the_item_before(self, bench: Bench) -> None:
        make = self.maker(bench, {"id": "vm-1"}, {"id": "vm-2"}, SoftTimeLimitExceeded())
        assert self.loop(bench, make, names=["a", "b", "c"]).status == "COMPENSATED"
        assert bench.calls == [("rm", None), ("rm", "vm-2"), ("rm", "vm-1")]

    def loop(self, bench: Bench, make: Any, **context: Any) -> SagaResult:
        body = Saga(f"{bench.name}.body", app=bench.app)
        body.local_step(make).on_failure(bench.compensates("rm", None))
        saga = Saga(f"{bench.name}.loop", app=bench.app)
        saga.for_each("names", body.commit(), as_="item")
        return saga.commit().delay(**context)

    def test_a_key_of_the_context_that_no_run_of_the_task_returns(self, bench: Bench) -> None:
        make = self.maker(bench, {"size": 1}, SoftTimeLimitExceeded())
        self.loop(bench, make, names=["a", "b"], id="order-7")
        assert bench.calls == [("rm", "order-7"), ("rm", "order-7")]

    def test_a_key_that_another_task_returns(self, bench: Bench) -> None:
        """As the order's id, which the compensations of later steps read."""
        order = (bench.makes({"id": "order-7"}), bench.compensates("cancel"))
        bench.run(order, (self.lost(bench), bench.compensates("release")))
        assert bench.calls == [("release", "order-7"), ("cancel", "order-7")]

    def test_a_key_that_the_step_reads(self, bench: Bench) -> None:
        """Its compensation gets what the step was given."""

        def add(id: int) -> int:
            raise SoftTimeLimitExceeded

        bench.run((bench.task(add), bench.compensates("set_back"), {"returns": "id"}), id=3)
        assert bench.calls == [("set_back", 3)]

    def test_a_result_that_comes_late_is_its_own(self, bench: Bench) -> None:
        """After a retry of the operator's, too."""
        make = self.maker(bench, {"id": 1}, SoftTimeLimitExceeded(), {"id": 2})
        rm = bench.compensates("rm", None)
        steps = [(make, rm), (make, rm, {"on_exhausted": "pause"}), (bench.fails(), None)]
        result = bench.run(*steps)
        assert (result.status, bench.calls) == ("STUCK", [])
        bench.manager.retry(result.id)
        assert bench.calls == [("rm", 2), ("rm", 1)]
        assert result.status == "COMPENSATED"


def test_an_unusable_result(bench: Bench) -> None:
    result = bench.run(
        (bench.makes({"id": "vm-1", "handle": object()}), bench.compensates("d", None))
    )
    assert bench.calls == [("d", None)]
    assert result.status == "COMPENSATED"


def test_a_dropped_result_need_not_be_usable(bench: Bench) -> None:
    found = {"id": "vm-1", "handle": object()}
    bench.run(
        (bench.makes(found), bench.compensates("d", None), {"returns": False}),
        (bench.fails(), None),
    )
    assert bench.calls == [("d", "vm-1")]


def test_a_compensation_changes_nothing_for_those_after_it(bench: Bench) -> None:
    def compensation(context: SagaContext) -> None:
        bench.calls.append(("context", context["id"]))
        context["id"] = "changed by a compensation"

    result = bench.run(
        (bench.makes({"id": "vm-1"}), bench.compensates("destroy")),
        (bench.makes(None), bench.task(compensation), {}, {"context": True}),
        (bench.fails(), None),
    )
    assert bench.calls == [("context", "vm-1"), ("destroy", "vm-1")]
    assert result.context["id"] == "changed by a compensation"


def test_context_style_gets_the_whole_context_as_it_is(bench: Bench) -> None:
    def compensation(context: SagaContext) -> None:
        bench.calls.append(("context", context["id"]))

    bench.run(
        (bench.makes({"id": "vm-1"}), bench.task(compensation), {}, {"context": True}),
        (bench.makes({"id": "vm-2"}), None),
        (bench.fails(), None),
    )
    assert bench.calls == [("context", "vm-2")]


def test_values_are_of_their_types(bench: Bench) -> None:
    when = datetime(2026, 11, 28, 12, 30)
    bench.run(
        (bench.makes({"id": when}), bench.compensates("a")),
        (bench.makes({"id": b"\x00\xff"}), bench.compensates("b")),
        (bench.makes({"id": "three"}), None),
        (bench.fails(), None),
    )
    assert bench.calls == [("b", b"\x00\xff"), ("a", when)]


def test_nothing_is_kept_that_no_compensation_may_read(bench: Bench) -> None:
    result = bench.run(
        (bench.makes({"id": 1, "big": "x" * 1000}), bench.compensates("a")),
        (bench.makes({"big": "y" * 1000}), bench.compensates("b", None)),
        (bench.makes({"size": 3}), None),
    )
    assert result.status == "COMPLETED"
    assert [step.kept for step in result.execution.steps] == [None, None, None]


def test_an_export_takes_it_along(bench: Bench) -> None:
    result = bench.run(
        (bench.makes({"id": 1}), bench.compensates("a")),
        (bench.makes({"id": 2}), bench.compensates("b")),
        (bench.fails(), None),
    )
    execution = result.execution
    assert execution.steps[0].kept == {"id": "1"}
    assert type(execution).from_raw(execution.raw) == execution
    assert "kept" not in repr(execution.steps[0])
