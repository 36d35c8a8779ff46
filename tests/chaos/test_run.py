"""A short run of ``python -m benchmarks chaos``: many sagas, all faults, two layouts."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.chaos.driver import Options, run
from benchmarks.chaos.orders import make_order
from benchmarks.chaos.report import holds, rows
from benchmarks.chaos.schedule import KILLS, OTHERS, make_schedule

pytestmark = pytest.mark.worker


def test_a_seed_gives_the_same_sagas_and_faults():
    assert make_schedule(7, 500, 20) == make_schedule(7, 500, 20)
    assert make_schedule(7, 500, 20) != make_schedule(8, 500, 20)
    assert [make_order(7, number) for number in range(50)] == [
        make_order(7, number) for number in range(50)
    ]


def test_a_schedule_has_all_kinds_of_faults():
    schedule = make_schedule(1, 300, 10)
    kinds = Counter(fault.kind for fault in schedule)
    assert set(kinds) == {*KILLS, *OTHERS}
    assert sum(kinds[kind] for kind in KILLS) == 10
    assert all(0 <= fault.after < 270 for fault in schedule)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("apart", [False, True], ids=["one server", "two servers"])
def test_every_saga_ends_as_it_is_reported(apart, tmp_path):
    options = Options(sagas=150, kills=8, seed=4, in_flight=60, apart=apart, heartbeat=(0.5, 5.0))
    outcome = run(options, tmp_path)
    found = {what: count for what, count, _ in rows(outcome)}
    assert holds(outcome), (found, [verdict for verdict in outcome.verdicts if verdict.reasons])
    assert found["completed"] + found["compensated"] == 150
    assert {each.kind for each in outcome.faults} >= {"child", "worker", "server", "stop", "lose"}


@pytest.mark.timeout(400)
def test_every_tree_ends_as_it_is_reported(tmp_path):
    options = Options(sagas=50, kills=6, seed=4, in_flight=25, heartbeat=(0.5, 5.0), shape="tree")
    outcome = run(options, tmp_path)
    found = {what: count for what, count, _ in rows(outcome)}
    assert holds(outcome), (found, [verdict for verdict in outcome.verdicts if verdict.reasons])
    assert found["completed"] + found["compensated"] == 50
    assert {each.kind for each in outcome.faults} >= {"child", "worker", "server"}
