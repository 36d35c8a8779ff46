"""What Celery's JSON serializer takes is a result of a step; on a real worker."""

from __future__ import annotations

from datetime import datetime

import pytest

from celery_saga import Saga
from tests.worker.apps import bodies as tasks

pytestmark = pytest.mark.worker


def test_it_comes_back_as_celery_would_bring_it(flows, journal):
    saga = Saga("shapes", app=flows.app)
    saga.local_step(tasks.makes_shapes).on_failure(tasks.compensation_shapes)
    saga.local_step(tasks.makes_a_pair, returns="two").on_failure(tasks.compensation)
    result = saga.commit().delay()

    expected = {"pair": [1, 2], "colour": "red", "at": {"1": [datetime(2026, 11, 1)]}}
    found = result.get(timeout=30)
    assert found == {**expected, "two": [1, [2]]}
    assert type(found.colour) is str


def test_its_compensation_gets_it_so(flows, journal):
    saga = Saga("shapes compensated", app=flows.app)
    saga.local_step(tasks.makes_shapes, returns=False).on_failure(tasks.compensation_shapes)
    saga.local_step(tasks.fails)
    result = saga.commit().delay(how="declined")

    result.get(timeout=30, propagate=False)
    assert result.status == "COMPENSATED"
    (compensated,) = [entry for entry in journal.of(result.id) if entry["direction"] == "c"]
    assert (compensated["pair"], compensated["colour"]) == ([1, 2], "red")


def test_a_result_that_its_task_ignores_is_left_out(flows, journal):
    saga = Saga("ignored", app=flows.app)
    saga.local_step(tasks.made_of_things).on_failure(tasks.compensation)
    assert saga.commit().delay(value=1).get(timeout=30) == {"value": 1}
