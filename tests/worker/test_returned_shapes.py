"""What Celery's JSON serializer takes is a result of a step; on a real worker."""

from __future__ import annotations

from datetime import datetime

import pytest

from celery_saga import Saga

pytestmark = pytest.mark.worker


def test_it_comes_back_as_celery_would_bring_it(flows, journal):
    from tests.worker.apps import outcomes

    saga = Saga("shapes", app=outcomes.app)
    saga.local_step(outcomes.makes_shapes).on_failure(outcomes.undo_shapes)
    saga.local_step(outcomes.makes_a_pair, returns="two").on_failure(outcomes.undo)
    result = saga.commit().delay()

    expected = {"pair": [1, 2], "colour": "red", "at": {"1": [datetime(2026, 11, 1)]}}
    found = result.get(timeout=30)
    assert found == {**expected, "two": [1, [2]]}
    assert type(found.colour) is str


def test_its_compensation_gets_it_so(flows, journal):
    from tests.worker.apps import outcomes

    saga = Saga("shapes undone", app=outcomes.app)
    saga.local_step(outcomes.makes_shapes, returns=False).on_failure(outcomes.undo_shapes)
    saga.local_step(outcomes.ends)
    result = saga.commit().delay(how="declined")

    result.get(timeout=30, propagate=False)
    assert result.status == "COMPENSATED"
    (undone,) = [entry for entry in journal.of(result.id) if entry["direction"] == "c"]
    assert (undone["pair"], undone["colour"]) == ([1, 2], "red")


def test_a_result_that_its_task_ignores_is_left_out(flows, journal):
    from tests.worker.apps import outcomes

    saga = Saga("ignored", app=outcomes.app)
    saga.local_step(outcomes.made_of_things).on_failure(outcomes.undo)
    assert saga.commit().delay(value=1).get(timeout=30) == {"value": 1}
