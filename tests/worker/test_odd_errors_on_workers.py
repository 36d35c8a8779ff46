"""Whatever a body raises, its saga's record is right, and the worker lives; on a real worker."""

from __future__ import annotations

import pytest

from celery_saga import Saga
from tests.odd_errors import ODD
from tests.worker.apps import bodies as tasks
from tests.worker.apps.constants import QUICK_COMPENSATION

pytestmark = pytest.mark.worker

SHORT = 4_000


@pytest.fixture(scope="module")
def started():
    return {}


@pytest.fixture
def ended(flows, started):
    """The sagas of all odd exceptions run at once; their executions by what was raised."""
    if not started:
        for what in ODD:
            saga = Saga("odd errors", app=flows.app)
            saga.local_step(tasks.do, name="a").on_failure(tasks.compensation, **QUICK_COMPENSATION)
            saga.local_step(tasks.do, name="b").on_failure(
                tasks.raises_oddly, **QUICK_COMPENSATION, max_attempts=1
            )
            saga.local_step(tasks.raises_oddly, name="c")
            started[what] = saga.commit().delay(what=what)
    return started


@pytest.mark.parametrize("what", ODD)
def test_what_a_step_and_its_compensation_raise_is_recorded(ended, journal, what):
    result = ended[what]
    result.get(timeout=60, propagate=False)
    execution = result.execution

    assert execution.status == "STUCK"
    assert journal.began(result.id) == ["a/f", "b/f", "c/f", "b/c", "a/c"]
    _, kind, text = ODD[what]
    for failure in (execution.steps[2].error, execution.steps[1].compensation_error):
        assert kind in failure.type
        assert text in failure.message
        assert len(str(failure)) < SHORT
    assert len(repr(execution.raw)) < 4 * SHORT
    assert str(result._runtime.app.AsyncResult(result.id).result).startswith("saga ")


def test_the_worker_lives(ended, flows):
    for result in ended.values():
        result.get(timeout=60, propagate=False)
    saga = Saga("after odd errors", app=flows.app, steps=[tasks.do]).commit()
    assert saga.delay(value=1).get(timeout=30) == {"value": 1, "do": 1}
