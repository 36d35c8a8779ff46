"""Promise 1: the compensations run in strict reverse order, each when the one before it has ended.

``tests/worker/test_bodies.py`` has the sagas of all kinds.
"""

from __future__ import annotations

import pytest

from celery_saga import Saga, SagaCompensated
from tests.worker.apps.steps import compensation, late
from tests.worker.ledger import begin

pytestmark = pytest.mark.worker


def test_each_begins_when_the_one_before_it_has_ended(shared):
    saga = Saga("in order", app=shared.app)
    for name in "abc":
        saga.local_step(late, name=name).on_failure(compensation)
    saga.local_step(late, name="without a compensation")
    saga.local_step(late, name="d")
    result = saga.commit().delay(hold=["c/c", "b/c"], fail=["d/f"])

    for count, name in ((6, "c/c"), (7, "b/c")):
        shared.journal.wait(result.id, "began", count)
        assert shared.journal.began(result.id)[-1] == name
        shared.journal.open(result.id, name)

    assert shared.settled(result) == "COMPENSATED"
    lines = [(line["what"], line["step"]) for line in shared.journal.of(result.id)[-6:]]
    assert lines == [(what, step) for step in "cba" for what in ("began", "ended")]


def test_what_the_caller_gets_of_a_saga_that_was_compensated(shared):
    result = begin(shared.app, "the last step fails")
    with pytest.raises(SagaCompensated, match=r"'c'.*declined") as caught:
        result.get(timeout=30)
    assert caught.value.step == "c"
    assert list(result.progress.values()) == ["COMPENSATED", "COMPENSATED", "FAILED"]
