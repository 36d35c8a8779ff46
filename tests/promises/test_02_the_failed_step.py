"""Promise 2: an exception is the task's report that it left no effect.

``tests/worker/test_bodies.py`` has what a body may do, ``tests/worker/test_failure_table.py``
limits, revokes and what raises before the body.
"""

from __future__ import annotations

import pytest

from celery_saga import Saga, SagaCompensated

pytestmark = pytest.mark.worker


def test_arguments_that_the_task_does_not_take_fail_the_step(shared):
    """The caller knows the task by its name only, and was wrong about its parameters."""
    saga = Saga("wrong arguments", app=shared.app)
    saga.local_step("tests.worker.apps.bodies.do", name="a", inputs=[]).on_failure(
        "tests.worker.apps.bodies.compensation", inputs=[]
    )
    saga.local_step("elsewhere.two_needed", name="b", inputs=["one"]).on_failure(
        "tests.worker.apps.bodies.compensation", inputs=[]
    )
    result = saga.commit().delay(one=1)

    with pytest.raises(SagaCompensated, match="TypeError"):
        result.get(timeout=30)
    assert shared.journal.began(result.id) == ["a/f", "a/c"]
