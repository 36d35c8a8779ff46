"""Real servers and real workers; what many tests share is started once."""

from __future__ import annotations

import importlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_saga.contrib.embedded import EmbeddedValkey
from tests.helpers import wait_for
from tests.worker.harness import Journal, Site, leftovers

#: Databases that tests with workers of their own take in turn.
_databases = itertools.cycle(range(2, 14))


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="saga-test-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(scope="session")
def journal(valkey: EmbeddedValkey) -> Journal:
    os.environ["SAGA_TEST_JOURNAL"] = valkey.url(15)
    return Journal(valkey.url(15))


def expect_no_leftovers(site: Site) -> None:
    """A saga's keys expire once it is over; one that others still run may end meanwhile."""
    wait_for(lambda: not leftovers(site.client), 5, description="no keys without an expiry")


@pytest.fixture
def site(valkey: EmbeddedValkey, journal: Journal, folder: Path) -> Iterator[Site]:
    """A database, an app and workers for one test."""
    found = Site(valkey.url(next(_databases)), journal, folder)
    try:
        yield found
        expect_no_leftovers(found)
    finally:
        found.close()


@pytest.fixture(scope="session")
def functional_site(valkey: EmbeddedValkey, journal: Journal, folder: Path) -> Iterator[Site]:
    """The one prefork worker of the many tests that only run sagas."""
    os.environ["SAGA_TEST_URL"] = valkey.url(0)
    found = Site(valkey.url(0), journal, folder)
    found.worker(app="tests.worker.apps.functional")
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def flows(functional_site: Site) -> Iterator[Any]:
    """The sagas of the functional app, in the process of the tests."""
    yield importlib.import_module("tests.worker.apps.functional")
    expect_no_leftovers(functional_site)
