"""A saga's handle in the places where Celery's own result of a task goes."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from celery.result import AsyncResult, ResultBase, ResultSet

from celery_saga import SagaCompensated
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late

pytestmark = pytest.mark.worker


@pytest.fixture
def shared(functional_site, flows):
    """The site of the worker that is there already."""
    return functional_site


@pytest.fixture
def saga(shared):
    return shared.saga(("a", late, compensation), ("b", late), name="alike")


def plain(result):
    return (type(result), str(result)) if isinstance(result, Exception) else dict(result)


def called_back(result):
    """What ``get(callback=)`` gives, and what it calls back with."""
    given = []
    found = result.get(timeout=30, propagate=False, callback=lambda *each: given.append(each))
    return plain(found), [(saga_id, plain(value)) for saga_id, value in given]


#: What code asks of a result that it was given, of a saga's and of the result by the saga's id.
ALIKE = {
    "state": lambda result: result.state,
    "result": lambda result: plain(result.result),
    "info": lambda result: plain(result.info),
    "get": lambda result: plain(result.get(30, False)),
    "wait": lambda result: plain(result.wait(timeout=30, propagate=False, interval=0.1)),
    "ready": lambda result: result.ready(),
    "successful": lambda result: result.successful(),
    "failed": lambda result: result.failed(),
    "id": lambda result: (result.id, result.task_id, str(result)),
    "traceback": lambda result: result.traceback,
    "family": lambda result: (result.parent, [*(result.children or ())]),
    "as_tuple": lambda result: (result.as_tuple(), result.as_list()),
    "kind": lambda result: isinstance(result, ResultBase),
}


class TestAlike:
    @pytest.mark.parametrize("asked", ALIKE)
    @pytest.mark.parametrize("fail", [[], ["b/f"]], ids=["completed", "compensated"])
    def test_what_is_asked_of_one_that_is_over(self, shared, saga, asked, fail):
        result = saga.delay(fail=fail)
        shared.settled(result)
        theirs = AsyncResult(result.id, app=shared.app)
        wait_for(theirs.ready)

        assert ALIKE[asked](result) == ALIKE[asked](theirs)

    def test_when_it_was_done(self, shared, saga):
        before = datetime.now(timezone.utc)
        result = saga.delay()
        result.get(timeout=30)

        assert before.timestamp() - 1 <= result.date_done.timestamp() <= shared.now()
        assert result.date_done.tzinfo is timezone.utc

    def test_of_one_on_its_way(self, shared, saga):
        result = saga.delay(hold=["a/f"])
        shared.journal.wait(result.id, "began", 1)

        assert (result.state, result.date_done, result.ready()) == ("STARTED", None, False)
        assert result.info == {
            "saga": "alike",
            "status": "RUNNING",
            "steps": {"a": "RUNNING", "b": "PENDING"},
        }
        shared.journal.open(result.id, "a/f")
        shared.settled(result)

    @pytest.mark.parametrize("kind", ["its own", "Celery's"])
    def test_nothing_is_kept_of_one_that_was_waited_for(self, shared, saga, kind):
        """A server that waits for thousands of them, one after the other."""
        result = saga.delay()
        handle = result if kind == "its own" else AsyncResult(result.id, app=shared.app)
        recorded, backend = [], shared.app.backend
        handle.then(recorded.append)
        handle.get(timeout=30)
        handle.then(recorded.append)

        assert recorded == [handle, handle]
        if kind == "its own":
            assert not any(result.id in waiting for waiting in backend._pending_results)
            key = backend.get_key_for_task(result.id)
            assert key not in backend.result_consumer.subscribed_to

    @pytest.mark.parametrize("fail", [[], ["b/f"]], ids=["completed", "compensated"])
    def test_get_with_a_callback(self, shared, saga, fail):
        result = saga.delay(fail=fail)
        wait_for(AsyncResult(result.id, app=shared.app).ready)

        # Celery's own calls no callback if it knew the end before.
        assert called_back(result) == called_back(AsyncResult(result.id, app=shared.app))

    def test_revoke_compensates_it(self, shared, saga):
        result = saga.delay(hold=["b/f"])
        shared.journal.wait(result.id, "began", 2)

        result.revoke()
        shared.journal.open(result.id, "b/f")

        assert shared.settled(result) == "COMPENSATED"
        assert shared.journal.began(result.id) == ["a/f", "b/f", "a/c"]

    def test_revoke_terminates(self, shared, saga):
        result = saga.delay(hold=["b/f"])
        shared.journal.wait(result.id, "began", 2)

        result.revoke(terminate=True)

        assert shared.settled(result) == "STUCK"  # b may have taken effect
        result.app.control.purge()


class TestSets:
    @pytest.fixture(params=["a saga first", "a task first", "sagas alone"])
    def members(self, request, shared, saga):
        task = shared.app.send_task("canvas.add", (1,))
        sagas = [saga.delay(n=n) for n in range(2)]
        order = {
            "a saga first": [*sagas, task],
            "a task first": [task, *sagas],
            "sagas alone": sagas,
        }
        return order[request.param]

    def test_get(self, members):
        results = ResultSet(list(members))

        assert results.get(timeout=30) == [each.result for each in members]
        assert (results.ready(), results.successful(), results.failed()) == (True, True, False)
        assert results.completed_count() == len(members)

    def test_join_and_its_callback(self, members):
        called = []
        ResultSet(list(members)).join(timeout=30, callback=lambda *each: called.append(each))

        assert [saga_id for saga_id, _ in called] == [each.id for each in members]

    def test_what_is_called_at_the_end(self, members):
        ended = []
        results = ResultSet(list(members))
        results.then(ended.append)

        results.get(timeout=30)

        assert [list(each.results) for each in ended] == [members]

    def test_one_that_failed(self, shared, saga):
        results = ResultSet([saga.delay(), saga.delay(fail=["b/f"])])

        with pytest.raises(SagaCompensated):
            results.get(timeout=30)
        good, bad = results.get(timeout=30, propagate=False)
        assert (good, type(bad)) == ({}, SagaCompensated)
        with pytest.raises(SagaCompensated):
            results.maybe_throw()
        assert results.failed()
        results.forget()
