"""Messages of steps that have lost the header of their saga are still deliveries of steps."""

from __future__ import annotations

import pytest

from celery_saga import Saga, SagaCompensated

pytestmark = pytest.mark.worker


@pytest.fixture
def kinds(flows):
    from tests.worker.apps import kinds

    return kinds


class TestATaskClassThatOverwritesHeaders:
    def test_it_is_a_step_with_one_body(self, journal, kinds):
        result = kinds.one("overwriting", kinds.overwriting).delay()

        assert result.get(timeout=30) == {"overwritten": True}
        assert journal.began(result.id) == ["overwriting/f"]

    def test_so_it_is_where_a_run_has_a_mark(self, journal, kinds):
        """One whose id was given has: messages of an older saga of that id are refused by it."""
        saga = kinds.one("overwriting", kinds.overwriting)
        result = saga.apply_async(saga_id="lost-header-1")

        assert result.execution.run_id
        assert result.get(timeout=30) == {"overwritten": True}
        assert journal.began(result.id) == ["overwriting/f"]

    def test_so_is_a_compensation(self, journal, kinds):
        saga = Saga("compensated", app=kinds.app)
        saga.local_step(kinds.overwriting, name="a").on_failure(kinds.compensation_overwriting)
        saga.local_step(kinds.fetched_without_success, name="b")
        result = saga.commit().delay(a=1)

        with pytest.raises(SagaCompensated):
            result.get(timeout=30)
        assert journal.began(result.id) == ["a/f", "a/c"]

    def test_its_retries_are_the_steps(self, journal, kinds):
        result = kinds.one("overwriting", kinds.overwriting_retry).delay(failures=2)

        assert result.get(timeout=30)["trace"] == "t-1"
        assert [line["attempt"] for line in journal.said(result.id, "began")] == [1, 2, 3]

    def test_a_message_that_comes_again_is_dropped(self, journal, kinds):
        result = kinds.one("overwriting", kinds.overwriting).delay()
        result.get(timeout=30)

        kinds.overwriting.apply_async(task_id=f"{result.id}~f0~1")
        kinds.app_task.delay(1).get(timeout=30)
        after = kinds.one("overwriting", kinds.overwriting).delay()

        after.get(timeout=30)
        assert journal.began(result.id) == ["overwriting/f"]


def test_a_retry_with_headers_of_its_own_keeps_that_of_the_saga(journal, kinds):
    result = kinds.one("retrying", kinds.retry_with_headers).delay(failures=2)

    assert result.get(timeout=30)["trace"] == "t-2"
    assert [line["attempt"] for line in journal.said(result.id, "began")] == [1, 2, 3]


class TestIdsThatMerelyLookLikeOurs:
    @pytest.mark.parametrize("task_id", ["unknown~f0~1", "unknown~c3~1"])
    def test_of_no_saga(self, kinds, task_id):
        assert kinds.app_task.apply_async((1,), task_id=task_id).get(timeout=30) == 11

    @pytest.mark.parametrize("ref", ["f0~1", "f0~9", "f7~1", "c0~1"])
    def test_of_a_saga_that_has_no_such_step(self, kinds, ref):
        result = kinds.one("overwriting", kinds.overwriting).delay()
        result.get(timeout=30)

        found = kinds.app_task.apply_async((1,), task_id=f"{result.id}~{ref}")
        assert found.get(timeout=30) == 11
