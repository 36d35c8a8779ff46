"""Children, a worker, or two workers killed at once: in steps, in undos, and between two of them.

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
from tests.worker.victims import ALL, DONE, LOST, UNDONE, Arena, Victim, arena_of, hold_all, victim

pytestmark = pytest.mark.worker

#: Sagas between two steps: ``b`` has been done elsewhere, and the message of the next step, or that
#: of the next undo, waits in the victim for a body to end.
BETWEEN = {
    "between steps, late": (DONE, ["a/f", "b/f", "c/f"]),
    "between steps, early": (DONE, ["a/f", "b/f", "c/f"]),
    "between undos, late": (UNDONE, ["a/f", "b/f", "c/f", "b/c", "a/c"]),
    "between undos, early": (UNDONE, ["a/f", "b/f", "c/f", "b/c", "a/c"]),
}

KILLS = {"children": 1, "worker": 1, "two workers": 2}


def wait_between(found: Victim, row: str) -> None:
    """Start a saga of which the victim has a message that it cannot start."""
    undo, late = "undos" in row, "late" in row
    task = tasks.late if late else tasks.early
    saga = Saga("between", app=found.site.app)
    undo_task = tasks.undo if late else tasks.early_undo
    saga.local_step(task, name="a", queue="rescue").on_failure(
        undo_task, queue=found.queue if undo else "rescue"
    )
    saga.local_step(task, name="b", queue="rescue").on_failure(undo_task, queue="rescue")
    saga.local_step(task, name="c", queue="rescue" if undo else found.queue)
    result = found.sagas[row] = saga.commit().delay(ways={"c/f": "declines"} if undo else {})
    awaited = "a" if undo else "c"
    wait_for(lambda: result.progress[awaited] in ("RUNNING", "COMPENSATING"))
    wait_for(lambda: not found.site.client.llen(found.queue), description="the victim has it")


def kill(victims: list[Victim], what: str) -> None:
    """All at once."""
    if what == "children":
        for line in victims[0].began.values():
            os.kill(line["pid"], signal.SIGKILL)
        return
    for found in victims:
        os.killpg(found.worker.process.pid, signal.SIGKILL)
    for found in victims:
        found.gone()
        found.rescue()


@pytest.fixture(scope="module")
def arena(journal, folder) -> Iterator[Arena]:
    with arena_of(journal, folder) as found:
        yield found


@pytest.fixture(scope="module", params=KILLS)
def killed(request, arena) -> Iterator[list[Victim]]:
    victims = [victim(arena) for _ in range(KILLS[request.param])]
    hold_all(victims)
    for found in victims:
        for row in BETWEEN:
            wait_between(found, row)
    kill(victims, request.param)
    yield victims
    for found in victims:
        found.leave()
    expect_no_leftovers(arena[0])


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
