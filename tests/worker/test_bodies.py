"""What a body may do, and what becomes of its saga: one table, on every pool.

``test_same_everywhere.py`` runs it in other places; what ends a process is in the failure table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from celery_saga import Saga, SagaCompensated, SagaStuck
from tests.tiers import POOLS
from tests.worker.apps.sagas import INNER, MEMORY, SCENARIOS
from tests.worker.conftest import expect_no_leftovers
from tests.worker.harness import Site
from tests.worker.ledger import SETTINGS, Record, begin, expect, record, records

pytestmark = [
    pytest.mark.worker,
    # Of the undo whose input only its own step returns: it is one of the scenarios.
    pytest.mark.filterwarnings("ignore::celery_saga.errors.DefinitionWarning"),
]


@dataclass
class Place:
    """One pool's worker, and what the sagas of the table did there."""

    pool: str
    site: Site
    found: dict[str, Record]


@pytest.fixture(scope="module", params=POOLS)
def on(request, valkey, journal, folder) -> Iterator[Place]:
    pool = request.param
    site = Site(valkey.url(14), journal, folder)
    site.settings.update(SETTINGS)
    site.app.conf.update(SETTINGS)
    site.worker("-P", pool, "-c", "4", app="tests.worker.apps.everywhere")
    try:
        place = Place(pool, site, records(journal, site.app, SCENARIOS))
        yield place
        expect_no_leftovers(site)
    finally:
        site.close()


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_written_down_happens(on, name):
    expect(on.found[name], SCENARIOS[name])


@pytest.mark.parametrize("name", [name for name, one in SCENARIOS.items() if "inner" in str(one)])
def test_the_sagas_that_steps_start(on, name):
    inner = SCENARIOS[name].context.get("inner", "inner")
    expect(on.found[name]["child"], INNER[inner])


def test_what_the_caller_is_told_of_a_saga_that_was_undone(on):
    result = begin(on.site.app, "the last step fails")
    with pytest.raises(SagaCompensated, match=r"'c'.*declined") as caught:
        result.get(timeout=30)
    assert caught.value.step == "c"
    assert list(result.progress.values()) == ["COMPENSATED", "COMPENSATED", "FAILED"]


@pytest.mark.parametrize("name", ["an undo fails for good", "an undo aborts"])
def test_what_the_caller_is_told_of_a_saga_that_is_stuck(on, name):
    result = begin(on.site.app, name)
    with pytest.raises(SagaStuck) as caught:
        result.get(timeout=30)
    execution = result.execution
    (stuck,) = [step for step in execution.steps if step.undo_error]
    for word in (f"'{stuck.name}'", stuck.undo_error.message, execution.error.message):
        assert word in str(caught.value)
    assert on.site.client.ttl(f"saga:execution:{result.id}") == -1


def test_arguments_that_the_task_does_not_take_fail_the_step(on):
    """The caller knows the task by its name only, and was wrong about its parameters."""
    saga = Saga("wrong arguments", app=on.site.app)
    saga.local_step("tests.worker.apps.bodies.do", name="a", inputs=[]).on_failure(
        "tests.worker.apps.bodies.undo", inputs=[]
    )
    saga.local_step("elsewhere.two_needed", name="b", inputs=["one"]).on_failure(
        "tests.worker.apps.bodies.undo", inputs=[]
    )
    result = saga.commit().delay(one=1)

    with pytest.raises(SagaCompensated, match="TypeError"):
        result.get(timeout=30)
    assert on.site.journal.began(result.id) == ["a/f", "a/c"]


def test_out_of_memory(on):
    """Last of all: under prefork and solo Celery ends the worker after it, sooner or later."""
    result: Any = begin(on.site.app, "memory")
    on.site.journal.wait(result.id, "began", 2)
    if on.pool in ("prefork", "solo"):
        on.site.worker("-P", on.pool, app="tests.worker.apps.everywhere")
    expect(record(on.site.journal, result), MEMORY)
