"""Sagas started by threads, forked processes, event loops and greenlets of one client process.

Each saga carries a number: it must be returned to the caller that started it, and its steps must
have run once. The servers count their clients, so that no connection is lost on the way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from celery_saga.testing.embedded import EmbeddedValkey
from tests.worker.harness import ROOT, Site

pytestmark = pytest.mark.worker


@pytest.fixture(scope="module")
def servers() -> Iterator[list[EmbeddedValkey]]:
    """A server for broker and backend, and one for stores: only this process is connected."""
    with EmbeddedValkey() as first, EmbeddedValkey() as second:
        yield [first, second]


#: Where the store is, and so how a step is sent.
STORES = {
    "in the backend": lambda servers: {},
    "with its own client": lambda servers: {"saga_store_url": servers[0].url(1)},
    "on another server": lambda servers: {"saga_store_url": servers[1].url(0)},
}


@pytest.fixture(scope="module", params=STORES)
def place(request, servers, journal, folder) -> Iterator[Site]:
    """A worker, and settings for clients."""
    found = Site(servers[0].url(0), journal, folder)
    found.settings |= STORES[request.param](servers)
    found.worker("-c", "4", "-P", "threads")
    try:
        yield found
    finally:
        found.close()


def connections(place):
    """The most that a thread has: one for each server that it uses, and one more while it waits."""
    return 3 if "saga_store_url" in place.settings else 2


def start(place, servers, way):
    """What a client process reports that starts sagas in this way."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.worker.apps.starts", way],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SAGA_TEST_URL": place.url,
            "SAGA_TEST_JOURNAL": place.journal.url,
            "SAGA_TEST_SETTINGS": json.dumps(place.settings),
            "SAGA_TEST_SERVERS": json.dumps([server.url(0) for server in servers]),
        },
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    for _, sent, came_back in report["sagas"]:
        assert sent == came_back
    ids = [saga_id for saga_id, _, _ in report["sagas"]]
    assert len(set(ids)) == len(ids)
    for saga_id in ids:
        assert place.journal.began(saga_id) == ["a/f", "b/f"] or way == "no-app"
    return report


def test_fifty_threads_at_once_and_again(place, servers):
    """All threads find nothing made yet in the first round; later ones find it in use."""
    report = start(place, servers, "threads")
    assert len(report["sagas"]) == 250
    most = report["before"] + connections(place) * 50 + 10
    assert max(report["counts"]) <= most


@pytest.mark.parametrize("way", ["children", "busy-children"])
def test_forked_children_have_connections_of_their_own(place, servers, way):
    """As of a web server that loads the app, uses it, and forks."""
    report = start(place, servers, way)
    assert len(report["sagas"]) >= 3 + 12 + 5 * 16


def test_an_event_loop(place, servers):
    report = start(place, servers, "loop")
    assert len(report["sagas"]) == 120
    # asyncio's threads, and those that wait for run().
    assert report["counts"][0] <= report["before"] + connections(place) * (32 + 36) + 10


def test_greenlets(place, servers):
    report = start(place, servers, "greenlets")
    assert len(report["sagas"]) == 50
    assert report["counts"][0] <= report["before"] + connections(place) * 50 + 10


def test_threads_without_a_current_app(place, servers):
    assert len(start(place, servers, "no-app")["sagas"]) == 8


def test_a_client_that_ends_leaves_no_connection(place, servers):
    before = start(place, servers, "no-app")["before"]
    start(place, servers, "threads")
    # The worker itself may have a few more by now, of which the client had more than fifty.
    assert start(place, servers, "no-app")["before"] <= before + 12
