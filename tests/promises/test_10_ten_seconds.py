"""Children, a worker, or two workers killed at once: in steps, in compensations, and between two.

``test_03_unknown_outcomes.py`` and ``test_failure_table_workers.py`` have the same one by one, with
more ways to end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from celery_saga import Saga
from tests.helpers import wait_for
from tests.worker.apps import bodies as tasks
from tests.worker.stage import expect_no_leftovers
from tests.worker.targets import (
    ALL,
    COMPENSATED,
    DONE,
    LOST,
    SitePair,
    Target,
    hold_all,
    site_pair_of,
    target,
)

pytestmark = pytest.mark.worker

#: Sagas between two steps: ``b`` has been done elsewhere, and the message of the next step, or that
#: of the next compensation, waits in the target for a body to end.
BETWEEN = {
    "between steps, late": (DONE, ["a/f", "b/f", "c/f"]),
    "between steps, early": (DONE, ["a/f", "b/f", "c/f"]),
    "between compensations, late": (COMPENSATED, ["a/f", "b/f", "c/f", "b/c", "a/c"]),
    "between compensations, early": (COMPENSATED, ["a/f", "b/f", "c/f", "b/c", "a/c"]),
}

KILLS = {"children": 1, "worker": 1, "two workers": 2}


def wait_between(found: Target, row: str) -> None:
    """Start a saga of which the target has a message that it cannot start."""
    compensation, late = "compensations" in row, "late" in row
    task = tasks.late if late else tasks.early
    saga = Saga("between", app=found.site.app)
    compensation_task = tasks.compensation if late else tasks.early_compensation
    saga.local_step(task, name="a", queue="rescue").on_failure(
        compensation_task, queue=found.queue if compensation else "rescue"
    )
    saga.local_step(task, name="b", queue="rescue").on_failure(compensation_task, queue="rescue")
    saga.local_step(task, name="c", queue="rescue" if compensation else found.queue)
    result = found.sagas[row] = saga.commit().delay(
        ways={"c/f": "declines"} if compensation else {}
    )
    awaited = "a" if compensation else "c"
    wait_for(lambda: result.progress[awaited] in ("RUNNING", "COMPENSATING"))
    wait_for(lambda: not found.site.client.llen(found.queue), description="the target has it")


def kill(targets: list[Target], what: str) -> None:
    """All at once."""
    if what == "children":
        for line in targets[0].began.values():
            os.kill(line["pid"], signal.SIGKILL)
        return
    for found in targets:
        os.killpg(found.worker.process.pid, signal.SIGKILL)
    for found in targets:
        found.wait_until_lost()
        found.rescue()


@pytest.fixture(scope="module")
def site_pair(journal, folder) -> Iterator[SitePair]:
    with site_pair_of(journal, folder) as found:
        yield found


@pytest.fixture(scope="module", params=KILLS)
def killed(request, site_pair) -> Iterator[list[Target]]:
    targets = [target(site_pair) for _ in range(KILLS[request.param])]
    hold_all(targets)
    for found in targets:
        for row in BETWEEN:
            wait_between(found, row)
    kill(targets, request.param)
    yield targets
    for found in targets:
        found.leave()
    expect_no_leftovers(site_pair[0])


@pytest.mark.parametrize("row", ALL)
def test_in_a_body(killed, row):
    for found in killed:
        assert found.ledger(row) == LOST[row]


@pytest.mark.parametrize("row", BETWEEN)
def test_between_two_bodies(killed, row):
    for found in killed:
        result = found.sagas[row]
        status = found.site.settled(result)
        assert (status, found.journal.began(result.id)) == BETWEEN[row]
        assert {step.lost for step in result.execution.steps} == {0}
