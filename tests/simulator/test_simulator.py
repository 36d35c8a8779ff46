"""Seeds of the simulator; ``SAGA_SIMULATOR_SEEDS`` says how many."""

from __future__ import annotations

import os

import pytest

from tests.simulator.simulator import TOTALS, run

SEEDS = int(os.environ.get("SAGA_SIMULATOR_SEEDS", "300"))


# Some milliseconds a seed; the limit only ends what hangs.
@pytest.mark.timeout(120 + SEEDS // 50)
def test_no_seed_breaks_a_promise() -> None:
    failure = run(range(SEEDS))
    if failure:
        pytest.fail(failure, pytrace=False)
    assert TOTALS.seeds >= SEEDS
