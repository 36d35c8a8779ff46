"""Seeds of the simulator; ``SAGA_SIMULATOR_SEEDS`` says how many: an eighth of them of trees."""

from __future__ import annotations

import os

import pytest

from tests.simulator.schedule import draw_trees
from tests.simulator.simulator import TOTALS, run

SEEDS = int(os.environ.get("SAGA_SIMULATOR_SEEDS", "300"))

#: How many of them are of trees: one takes three times as long.
TREES = SEEDS // 8

#: Seeds that failed once, beyond those that are run each time.
FAILED_ONCE = (15_114, 53_949)

#: So that processes of pytest-xdist can share them.
PARTS = 8


# Some milliseconds a seed; the limit only ends what hangs.
@pytest.mark.timeout(120 + SEEDS // 50)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_breaks_a_promise(part: int) -> None:
    seeds, before = range(part, SEEDS - TREES, PARTS), TOTALS.seeds
    failure = run(seeds)
    if failure:
        pytest.fail(failure, pytrace=False)
    assert TOTALS.seeds - before == len(seeds) > 0


@pytest.mark.timeout(120 + SEEDS // 50)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_of_trees_does(part: int) -> None:
    """Of sagas with branches, choices, loops and waits."""
    seeds, before = range(part, TREES, PARTS), TOTALS.seeds
    failure = run(seeds, draw_trees)
    if failure:
        pytest.fail(failure, pytrace=False)
    assert TOTALS.seeds - before == len(seeds) > 0


@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_seeds_that_failed_once(seed: int) -> None:
    failure = run([seed])
    if failure:
        pytest.fail(failure, pytrace=False)
    assert TOTALS.seeds > 0
