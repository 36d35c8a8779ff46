"""Promise 5: a status is never better than what is known of the effects.

The walk and the simulator check it in every state (``tests/core/promises.py``).
"""

from __future__ import annotations

import pytest

from celery_saga import SagaStuck
from tests.worker.apps.steps import compensation, early, late

pytestmark = pytest.mark.worker


def test_a_step_with_early_ack_that_nothing_compensates_leaves_the_saga_stuck(shared):
    result = shared.saga(("a", late, compensation), ("b", early)).delay(hold=["b/f"])
    shared.kill_child(shared.journal.wait(result.id, "began", 2))

    with pytest.raises(SagaStuck, match=r"step 'b' may have taken effect") as caught:
        result.get(timeout=40)
    assert caught.value.step == "b"
    assert shared.journal.began(result.id) == ["a/f", "b/f", "a/c"]
    assert list(result.progress.values()) == ["COMPENSATED", "UNKNOWN"]
