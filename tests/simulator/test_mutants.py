"""Each known bug is noticed, by the checker and as the invariant that :mod:`.mutants` names."""

from __future__ import annotations

import pytest

from tests.core.scenario import plan_of
from tests.core.tree_shapes import ITEMS, WAITS, plan_of_shape
from tests.core.walk import Violation, Walk
from tests.invariants import Invariant
from tests.simulator.mutants import MUTANTS, NOTHING, Mutant
from tests.simulator.schedule import draw
from tests.simulator.simulator import outcome_of, quiet

SIMULATED = [each for each in MUTANTS if each.seeds]
WALKED = [each for each in MUTANTS if each.way]


@pytest.mark.parametrize("mutant", SIMULATED, ids=lambda mutant: mutant.name)
def test_the_simulator_notices(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    others = []
    with quiet(), monkeypatch.context() as patch:
        mutant.put_in(patch)
        for seed in range(mutant.seeds):
            outcome = outcome_of(draw(seed))
            if outcome.invariant is mutant.breaks:
                break
            if outcome.broken:
                others.append(f"seed {seed}: {outcome.broken}")
        else:
            text = f"{mutant.breaks} was not broken"
            pytest.fail("\n".join([text, *others[:20]]), pytrace=False)
    with quiet():
        assert outcome_of(draw(seed)).broken == "", "without the mutant the same seed passes"


@pytest.mark.parametrize("mutant", WALKED, ids=lambda mutant: mutant.name)
def test_the_walk_notices(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = walk_of(mutant)
    mutant.put_in(monkeypatch)
    with pytest.raises(Violation) as raised:
        walk.run(until=mutant.breaks)
    assert mutant.breaks in raised.value.invariants, str(raised.value)


def walk_of(mutant: Mutant) -> Walk:
    assert mutant.way is not None
    shape, bounds, result = mutant.way.shape, mutant.way.bounds, mutant.way.result
    of_steps = isinstance(shape, str) and shape not in WAITS
    plan = (plan_of if of_steps else plan_of_shape)(shape, max_redeliveries=1)
    values = {"input": 1, ITEMS: ["one", "two"]}
    return Walk(plan, NOTHING._replace(**bounds), result=result, values=values)


@pytest.mark.parametrize("mutant", WALKED, ids=lambda mutant: mutant.name)
def test_without_it_the_walk_notices_nothing(mutant: Mutant) -> None:
    walk_of(mutant).run()


def test_every_invariant_has_a_mutant() -> None:
    assert {each.breaks for each in MUTANTS} == set(Invariant)
