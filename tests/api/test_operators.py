"""An operator's requests in Python: what they find, what they do, what they refuse."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from celery_saga import Saga, SagaManager, SagaResult
from celery_saga.errors import (
    ContextTooLarge,
    SagaExecutionNotFoundException,
    SagaNotActionable,
    UnserializableValue,
)
from tests.api.shops import Shop

ME = f"{getpass.getuser()}@{socket.gethostname()}"


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.app.close()


def ids(executions: list[Any]) -> list[str]:
    return [each.saga_id for each in executions]


class TestList:
    def test_those_first_that_changed_last(self, shop: Shop) -> None:
        found = []
        for fail in ([], ["pay"], ["pay", "give_back"]):
            found.append(shop.started(fail=fail))
            shop.time += 1

        listed = shop.manager.list()

        assert ids(listed) == [each.id for each in reversed(found)]
        assert [each.status for each in listed] == ["STUCK", "COMPENSATED", "COMPLETED"]

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"status": "STUCK"}, ["stuck"]),
            ({"status": "stuck"}, ["stuck"]),
            ({"status": ["STUCK", "COMPLETED"]}, ["stuck", "done", "other"]),
            ({"saga": "returns"}, ["other"]),
            ({"saga": "returns", "status": "STUCK"}, []),
            ({"saga": "nothing"}, []),
            ({"older_than": 15}, ["done", "other"]),
            ({"older_than": timedelta(seconds=15)}, ["done", "other"]),
            ({"older_than": 0}, ["stuck", "done", "other"]),
            ({"limit": 1}, ["stuck"]),
        ],
        ids=str,
    )
    def test_what_is_asked_for(
        self, shop: Shop, options: dict[str, Any], expected: list[str]
    ) -> None:
        found = {shop.started("returns").id: "other"}
        shop.time += 1
        found[shop.started().id] = "done"
        shop.time += 20
        found[shop.stuck().id] = "stuck"

        assert [found[saga_id] for saga_id in ids(shop.manager.list(**options))] == expected

    def test_one_that_moves_on_meanwhile_is_listed_once(self, shop: Shop) -> None:
        shop.app.conf.task_always_eager = False
        result = shop.started()
        store = shop.manager._runtime.store
        find = store.find

        def meanwhile(status: Any, *asked: Any) -> Any:
            if status == "COMPENSATED":
                result.cancel()
            return find(status, *asked)

        store.find = meanwhile  # type: ignore[method-assign]

        assert ids(shop.manager.list()) == [result.id]
        assert ids(shop.manager.list(["compensated", "COMPENSATED"])) == [result.id]

    def test_page_after_page(self, shop: Shop) -> None:
        started = []
        for _ in range(5):
            started.append(shop.stuck().id)
            shop.time += 20
        pages = [ids(shop.manager.list(limit=2, offset=offset)) for offset in (0, 2, 4, 6)]
        newest = started[::-1]
        assert pages == [newest[:2], newest[2:4], newest[4:], []]
        assert shop.manager.counts()["STUCK"] == 5
        assert shop.manager.counts(saga="another")["STUCK"] == 0

    def test_a_saga_is_as_old_as_its_status(self, shop: Shop) -> None:
        result = shop.stuck()
        shop.time += 100
        shop.manager.resolve(result, "COMPENSATED")

        assert shop.manager.list(older_than=50) == []

    @pytest.mark.parametrize(
        "options",
        [{"status": "DONE"}, {"status": [7]}, {"older_than": -1}, {"limit": 0}],
        ids=str,
    )
    def test_bad_input(self, shop: Shop, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"expected .*, found"):
            shop.manager.list(**options)


class TestRetry:
    def test_what_holds_it_up_runs_again(self, shop: Shop) -> None:
        result = shop.stuck()

        with pytest.raises(Exception, match="give_back is out of order"):
            shop.manager.retry(result.id).get()
        assert (result.status, shop.ran) == ("STUCK", ["give_back"])

    def test_with_a_corrected_context(self, shop: Shop) -> None:
        result = shop.stuck()

        handle = shop.manager.retry(result.id, {"fail": [], "note": "restocked"}, by="ann")

        assert (handle.status, shop.ran) == ("COMPENSATED", ["give_back"])
        assert handle.context == {"fail": [], "note": "restocked"}
        assert [(note.what, note.by, note.detail) for note in handle.execution.history[-1:]] == [
            ("retry", "ann", "fail, note")
        ]

    def test_a_context_that_cannot_be_kept(self, shop: Shop) -> None:
        result = shop.stuck()
        before = result.execution
        shop.app.conf.saga_context_limit = 100

        with pytest.raises(UnserializableValue):
            shop.manager.retry(result.id, {"fail": object()})
        with pytest.raises(ContextTooLarge):
            shop.manager.retry(result.id, {"fail": ["x" * 200]})
        assert result.execution == before


VERBS: dict[str, Callable[[SagaManager, str], SagaResult]] = {
    "retry": lambda manager, saga_id: manager.retry(saga_id),
    "skip": lambda manager, saga_id: manager.skip(saga_id),
    "resolve": lambda manager, saga_id: manager.resolve(saga_id, "COMPLETED"),
    "pause": lambda manager, saga_id: manager.pause(saga_id),
    "resume": lambda manager, saga_id: manager.resume(saga_id),
}


class TestEveryVerb:
    @pytest.mark.parametrize("verb", VERBS)
    def test_of_a_saga_that_is_over(self, shop: Shop, verb: str) -> None:
        result = shop.started()
        before = result.execution

        with pytest.raises(SagaNotActionable, match=f"COMPLETED: {verb} does not apply"):
            VERBS[verb](shop.manager, result.id)
        assert result.execution == before

    @pytest.mark.parametrize("verb", VERBS)
    def test_of_one_that_is_not_there(self, shop: Shop, verb: str) -> None:
        with pytest.raises(SagaExecutionNotFoundException):
            VERBS[verb](shop.manager, "nothing")

    @pytest.mark.parametrize(
        ("verb", "status"),
        [("retry", "STUCK"), ("skip", "COMPENSATED"), ("resolve", "COMPLETED")],
    )
    def test_of_a_stuck_one(self, shop: Shop, verb: str, status: str) -> None:
        result = shop.stuck()

        assert VERBS[verb](shop.manager, result.id).status == status
        asked = [note for note in result.execution.history if note.what == verb]
        assert [note.by for note in asked] == [ME]

    @pytest.mark.parametrize("verb", ["retry", "skip"])
    def test_asked_twice_at_once_it_happens_once(self, shop: Shop, verb: str) -> None:
        """The saga is stuck again, at something else or not, before the second one is saved."""
        tasks = shop.app.tasks
        saga = Saga("two", app=shop.app)
        for name in ("one", "other"):
            saga.local_step(tasks["shop.take"], name=name).on_failure(
                tasks["shop.give_back"], max_attempts=1
            )
        saga.local_step(tasks["shop.pay"], name="pay", read_only=True)
        result = saga.commit().delay(fail=["pay", "give_back"])
        shop.ran.clear()
        store: Any = shop.manager._runtime.store
        save = store.save

        def save_second(*given: Any, **options: Any) -> Any:
            store.save = save
            shop.time += 1
            VERBS[verb](shop.manager, result.id)
            return save(*given, **options)

        store.save = save_second

        with pytest.raises(SagaNotActionable):
            VERBS[verb](shop.manager, result.id)

        assert (result.status, shop.ran) == (
            "STUCK",
            ["give_back", "give_back"] if verb == "retry" else [],
        )
        assert [note.what for note in result.execution.history].count(verb) == 1

    def test_the_handle_is_accepted_as_its_id(self, shop: Shop) -> None:
        assert shop.manager.skip(shop.stuck()).status == "COMPENSATED"

    def test_only_an_end_resolves(self, shop: Shop) -> None:
        with pytest.raises(ValueError, match="COMPLETED, COMPENSATED"):
            shop.manager.resolve(shop.stuck(), "RUNNING")


class TestOnItsWay:
    @pytest.fixture
    def going(self, shop: Shop) -> SagaResult:
        shop.app.conf.task_always_eager = False
        return shop.started()

    def test_pause_and_resume(self, shop: Shop, going: SagaResult) -> None:
        assert shop.manager.pause(going.id).status == "PAUSED"
        assert [each.saga_id for each in shop.manager.list("PAUSED")] == [going.id]
        assert shop.manager.resume(going.id).status == "RUNNING"

    def test_cancel(self, shop: Shop, going: SagaResult) -> None:
        assert shop.manager.cancel(going.id, "wrong size", by="ann").status == "COMPENSATED"
        assert going.execution.error is not None
        assert going.execution.error.message == "wrong size"
        assert shop.manager.cancel(going.id).status == "COMPENSATED"  # changes nothing


class TestWord:
    """What the log says of an end."""

    @pytest.mark.parametrize(
        ("fail", "level", "words"),
        [
            ([], "INFO", ["COMPLETED"]),
            (["pay"], "WARNING", ["COMPENSATED", "'pay'", "pay is out of order"]),
            (
                ["pay", "give_back"],
                "ERROR",
                ["STUCK", "'take'", "give_back is out of order", "celery -A proj saga retry {id}"],
            ),
        ],
        ids=["completed", "compensated", "stuck"],
    )
    def test_of_each_end(
        self, shop: Shop, caplog: Any, fail: list[str], level: str, words: list[str]
    ) -> None:
        with caplog.at_level("INFO", "celery_saga"):
            result = shop.started(fail=fail)

        (record,) = [each for each in caplog.records if hasattr(each, "saga_status")]
        assert (record.levelname, record.saga_id, record.saga_name) == (level, result.id, "orders")
        for word in words:
            assert word.format(id=result.id) in record.getMessage()
