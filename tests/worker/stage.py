"""Fixtures: real servers and real workers; what many tests share is started once."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_saga.testing.embedded import EmbeddedValkey
from tests import tiers
from tests.helpers import wait_for
from tests.worker.deployment import Deployment
from tests.worker.harness import Journal, Site, leftovers
from tests.worker.servers import Server, serving

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
    found: list[str] = []

    def none() -> bool:
        found[:] = leftovers(site.client)
        return not found

    try:
        wait_for(none, description="no keys without an expiry")
    except AssertionError as error:
        raise AssertionError(f"{error}: {found}") from None


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


@pytest.fixture
def shared(functional_site: Site, flows: Any) -> Site:
    """The site of that worker, for tests that need only a worker.

    Sagas of other tests have run there; a test brings its own ids and queues, kills no worker and
    leaves the settings as they are.
    """
    return functional_site


@pytest.fixture
def canvas(flows: Any) -> Any:
    """The sagas and tasks of canvases, in the process of the tests."""
    return importlib.import_module("tests.worker.apps.canvas")


@pytest.fixture
def tag() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def recorded(functional_site: Site, tag: str) -> Any:
    """What bodies recorded under this test's tag, once there are so many."""

    def look(count: int = 1, timeout: float = 30) -> list[Any]:
        def found() -> list[Any]:
            lines: Any = functional_site.journal.client.lrange(f"recorded:{tag}", 0, -1)
            return [json.loads(line) for line in lines]

        wait_for(lambda: len(found()) >= count, timeout, description=f"{count} lines: {found()}")
        return found()

    return look


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    with serving() as one, serving() as other:
        yield one, other


@pytest.fixture(scope="module")
def sites(
    servers: tuple[Server, Server], journal: Journal, folder: Path
) -> Iterator[dict[str, Deployment]]:
    """A deployment for each way to write: checkpoint and message one by one, or in one script."""
    broker, other = servers
    urls = {
        "one by one": {"broker_url": broker.url(0), "result_backend": other.url(0)},
        "one script": {"broker_url": broker.url(1), "result_backend": broker.url(2)},
    }
    found = {way: Deployment(broker, journal, folder, given) for way, given in urls.items()}
    try:
        yield found
    finally:
        for site in found.values():
            site.close()


@pytest.fixture(scope="module")
def pools(request: pytest.FixtureRequest) -> list[str]:
    """Those of which rows of this module are to be run; the others need no worker."""
    found = {tiers.pool_of(item) for item in request.session.items if item.path == request.path}
    return [pool for pool in tiers.POOLS if pool in found]


@pytest.fixture(scope="module")
def once() -> Any:
    """Calls of one kind share their answer: each is a table of sagas that run at once."""
    answers: dict[Any, Any] = {}

    def once(call: Any, site: Deployment, *args: Any) -> Any:
        key = (call, site, *args)
        if key not in answers:
            answers[key] = None  # it is not tried twice
            answers[key] = call(site, *args)
        assert answers[key] is not None, "the test before this one shows why"
        return answers[key]

    return once


#: Characters of a worker's log that are shown of a test that failed.
SHOWN = 6000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """A test that failed shows the end of the logs of its workers."""
    report = yield
    if report.failed:
        for found in getattr(item, "funcargs", {}).values():
            for worker in getattr(found, "workers", ()) if isinstance(found, Site) else ():
                report.sections.append((f"log of {worker.name}", worker.text()[-SHOWN:]))
    return report
