"""Callbacks of a start and of a definition: who is called at which end, and with what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest
from celery import Celery

from celery_saga import AbortSaga, Saga, SagaManager, SagaResult
from celery_saga.core.decide import decide
from celery_saga.core.events import Overdue, ResultStored, StepSucceeded
from celery_saga.core.execution import Direction, SagaExecution, SagaStatus, StepRef
from celery_saga.errors import AlreadyCommittedException, DefinitionError
from celery_saga.messaging.results import drop_result
from celery_saga.runtime import runtime_of
from tests.api.shops import Shop


class CallbackShop(Shop):
    """A shop whose tasks ``note`` and ``complain`` record what they are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[str, Any]] = []
        self.note, self.complain, self.hear = map(self.recorder, ("note", "complain", "hear"))

    def recorder(self, name: str) -> Any:
        def note(what: Any, *, also: Any = None) -> None:
            self.called.append((name, what) if also is None else (name, what, also))  # type: ignore[arg-type]

        return self.app.task(note, name=f"shop.{name}", shared=False)

    def saga(self, **callbacks: Any) -> Saga:
        """``take`` and ``pay`` again, with callbacks of the definition."""
        tasks = self.app.tasks
        saga = Saga("notified", app=self.app)
        saga.local_step(tasks["shop.take"], name="take").on_failure(
            tasks["shop.give_back"], max_attempts=1
        )
        saga.local_step(tasks["shop.pay"], name="pay", read_only=True)
        for name, targets in callbacks.items():
            for target in targets if isinstance(targets, list) else [targets]:
                getattr(saga, name)(target)
        return saga.commit()


@pytest.fixture
def shop() -> Iterator[CallbackShop]:
    found = CallbackShop()
    yield found
    found.app.close()


ENDS: dict[str, list[str]] = {
    "COMPLETED": [],
    "COMPENSATED": ["pay"],
    "STUCK": ["pay", "give_back"],
}


@pytest.mark.parametrize("end", ENDS)
class TestEachEnd:
    def test_of_the_call(self, shop: CallbackShop, end: str) -> None:
        result = shop.saga().apply_async(
            {"fail": ENDS[end]},
            link=shop.note.s(),
            link_error=[shop.complain.s(), shop.hear.s()],
        )

        assert result.status == end
        good: list[Any] = [("note", {"fail": []})]
        bad: list[Any] = [("complain", result.id), ("hear", result.id)]
        assert shop.called == (good if end == "COMPLETED" else bad)

    def test_of_the_definition(self, shop: CallbackShop, end: str) -> None:
        saga = shop.saga(on_completed=shop.note, on_compensated=shop.complain, on_stuck=shop.hear)

        result = saga.delay(fail=ENDS[end])

        called = {
            "COMPLETED": ("note", {"fail": []}),
            "COMPENSATED": ("complain", result.id),
            "STUCK": ("hear", result.id),
        }
        assert shop.called == [called[end]]

    def test_of_both(self, shop: CallbackShop, end: str) -> None:
        saga = shop.saga(on_completed=shop.hear, on_compensated=shop.hear, on_stuck=shop.hear)

        saga.apply_async({"fail": ENDS[end]}, link=shop.note.s(), link_error=shop.complain.s())

        assert [name for name, *_ in shop.called] == [
            "note" if end == "COMPLETED" else "complain",
            "hear",
        ]

    def test_by_a_signature(self, shop: CallbackShop, end: str) -> None:
        saga = shop.saga(on_completed=shop.hear, on_compensated=shop.hear, on_stuck=shop.hear)

        if end == "COMPLETED":
            saga.s(fail=[]).apply()
        else:
            with pytest.raises(Exception, match="out of order"):
                saga.s(fail=ENDS[end]).apply(throw=True)

        assert [name for name, *_ in shop.called] == ["hear"]


class TestTargets:
    @pytest.mark.parametrize("kind", ["a task", "its name", "a signature", "immutable", "several"])
    def test_kinds(self, shop: CallbackShop, kind: str) -> None:
        target: Any = {
            "a task": shop.note,
            "its name": "shop.note",
            "a signature": shop.note.s(also=7),
            "immutable": shop.note.si("nothing"),
            "several": [shop.note, shop.hear.s()],
        }[kind]

        shop.saga(on_completed=target).delay(n=1)

        context = {"n": 1}
        expected: dict[str, list[Any]] = {
            "a signature": [("note", context, 7)],
            "immutable": [("note", "nothing")],
            "several": [("note", context), ("hear", context)],
        }
        assert shop.called == expected.get(kind, [("note", context)])

    def test_a_saga(self, shop: CallbackShop) -> None:
        """The next saga begins with the context with which this one ended."""
        after = Saga("after", app=shop.app)
        after.local_step(shop.note, inputs={"what": "n"}, read_only=True)

        shop.saga(on_completed=after.commit()).delay(n=1)

        assert shop.called == [("note", 1)]

    @pytest.mark.parametrize("bad", [7, None, "", "  ", print, Shop], ids=repr)
    def test_what_is_none(self, shop: CallbackShop, bad: Any) -> None:
        with pytest.raises(DefinitionError, match="on_stuck: expected a task"):
            Saga("x", app=shop.app).on_stuck(bad)

    @pytest.mark.parametrize("name", ["link", "link_error"])
    @pytest.mark.parametrize("bad", [7, [7], "", print], ids=repr)
    def test_what_is_not_a_link(self, shop: CallbackShop, name: str, bad: Any) -> None:
        with pytest.raises(ValueError, match=f"{name}: expected a signature"):
            shop.saga().apply_async({}, **{name: bad})
        assert (shop.ran, shop.manager.list()) == ([], [])

    def test_of_a_committed_saga(self, shop: CallbackShop) -> None:
        with pytest.raises(AlreadyCommittedException, match="on_completed"):
            shop.saga().on_completed(shop.note)


class TestLater:
    """A saga that was stuck has another end."""

    def stuck(self, shop: CallbackShop) -> SagaResult:
        saga = shop.saga(on_completed=shop.note, on_compensated=shop.complain, on_stuck=shop.hear)
        result = saga.apply_async({"fail": ENDS["STUCK"]}, link_error=shop.hear.si("a caller"))
        assert shop.called == [("hear", "a caller"), ("hear", result.id)]
        shop.called.clear()
        return result

    @pytest.mark.parametrize(("end", "name"), [("COMPENSATED", "complain"), ("COMPLETED", "note")])
    def test_the_definitions_callbacks_are_notified(
        self, shop: CallbackShop, end: str, name: str
    ) -> None:
        result = self.stuck(shop)

        shop.manager.resolve(result, end)

        assert [each[0] for each in shop.called] == [name]  # callers were notified of the first end

    def test_of_an_end_alone(self, shop: CallbackShop) -> None:
        result = self.stuck(shop)
        shop.manager.resolve(result, "COMPLETED")

        assert result.execution.callbacks is None

    def test_stuck_again_while_its_callbacks_are_called(self, shop: CallbackShop) -> None:
        """An operator is quicker than the result backend, and it gets stuck a second time."""
        saga = shop.saga(on_stuck=shop.hear)
        orchestrator: Any = shop.manager._runtime.orchestrator
        results = orchestrator.results
        publish = results.publish

        def slowly(execution: SagaExecution) -> None:
            publish(execution)
            if len(shop.called) == 1:
                results.publish = unavailable
                operator = Thread(target=shop.manager.retry, args=[execution.saga_id])
                operator.start()
                operator.join()

        def unavailable(execution: SagaExecution) -> None:
            raise OSError("the result backend is unavailable")

        results.publish = slowly
        result = saga.delay(fail=ENDS["STUCK"])
        assert (result.status, len(shop.called)) == ("STUCK", 1)
        results.publish = publish

        orchestrator.apply(result.id, Overdue(shop.time))

        assert shop.called == [("hear", result.id)] * 2

    @pytest.mark.parametrize("then", ["COMPENSATED", "STUCK"])
    def test_one_that_a_late_effect_reopens(self, shop: CallbackShop, then: str) -> None:
        saga = shop.saga(on_compensated=shop.complain, on_stuck=shop.hear)
        result = saga.apply_async({"fail": ["pay"]}, link_error=shop.hear.si("a caller"))
        shop.called.clear()
        if then == "STUCK":
            shop.fails.add("give_back")

        late = StepSucceeded(shop.time, StepRef((0,), Direction.FORWARD, 1), "a zombie's")
        shop.manager._runtime.orchestrator.apply(result.id, late)

        assert result.status == then
        name = "complain" if then == "COMPENSATED" else "hear"
        assert shop.called == [(name, result.id)]

    def test_one_that_continued_before_its_callbacks_were_called(self, shop: CallbackShop) -> None:
        """The report that STUCK is published comes when an operator has settled it already."""
        execution = self.stuck(shop).execution
        settled = replace(execution, status=SagaStatus.COMPENSATED, wants_result=True)

        after = decide(settled, ResultStored(shop.time, SagaStatus.STUCK)).execution

        assert (after.callbacks, after.result_pending) == (execution.callbacks, True)


def test_a_saga_without_callbacks_keeps_none(shop: CallbackShop) -> None:
    shop.app.conf.task_always_eager = False

    assert shop.saga().delay().execution.callbacks is None


def test_callbacks_are_not_called_again_by_a_second_start() -> None:
    """A start drops an old result of its id; its twin may have ended and published since."""
    app = Celery("twins", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(saga_store_url="memory://", task_always_eager=True)
    app.conf.task_store_eager_result = True
    SagaManager(app)
    called: list[object] = []

    @app.task(name="twins.fails", shared=False)
    def fails() -> None:
        raise AbortSaga("no")

    @app.task(name="twins.called", shared=False)
    def callback(*result: object) -> None:
        called.append(result)

    saga = Saga("twins", app=app)
    saga.local_step(fails)
    saga.on_compensated(callback)
    saga.commit()
    runtime = runtime_of(app)
    drop = runtime.drop_old_result

    def after_the_twin(saga_id: str) -> bool:
        runtime.drop_old_result = drop  # type: ignore[method-assign]
        assert not drop(saga_id)
        saga.apply_async({}, saga_id=saga_id)
        return drop_result(app, saga_id)

    runtime.drop_old_result = after_the_twin  # type: ignore[method-assign]

    result = saga.apply_async({}, saga_id="x")

    assert (result.created, len(called)) == (False, 1)
    assert app.AsyncResult("x").state == "FAILURE"
