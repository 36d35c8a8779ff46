"""What a body may do, and what becomes of its saga: one table, on every pool.

``test_same_everywhere.py`` runs it in other places; what ends a process is in the failure table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.tiers import POOLS
from tests.worker.apps.sagas import INNER, MEMORY, SCENARIOS
from tests.worker.harness import Site
from tests.worker.ledger import SETTINGS, Record, begin, expect, record, records
from tests.worker.stage import expect_no_leftovers

pytestmark = [
    pytest.mark.worker,
    # Of the compensation whose input only its own step returns: it is one of the scenarios.
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


def test_out_of_memory(on):
    """Last of all: under prefork and solo Celery ends the worker after it, sooner or later."""
    result: Any = begin(on.site.app, "memory")
    on.site.journal.wait(result.id, "began", 2)
    if on.pool in ("prefork", "solo"):
        on.site.worker("-P", on.pool, app="tests.worker.apps.everywhere")
    expect(record(on.site.journal, result), MEMORY)
