"""Promise 4: the other compensations still run, and the saga is stuck, which names both errors."""

from __future__ import annotations

import pytest

from celery_saga import SagaStuck
from tests.worker.ledger import begin

pytestmark = pytest.mark.worker


@pytest.mark.parametrize("name", ["a compensation fails for good", "a compensation aborts"])
def test_what_the_caller_gets_of_a_saga_that_is_stuck(shared, name):
    result = begin(shared.app, name)
    with pytest.raises(SagaStuck) as caught:
        result.get(timeout=30)
    execution = result.execution
    (stuck,) = [step for step in execution.steps if step.compensation_error]
    for word in (f"'{stuck.name}'", stuck.compensation_error.message, execution.error.message):
        assert word in str(caught.value)
    assert shared.client.ttl(f"saga:execution:{result.id}") == -1
