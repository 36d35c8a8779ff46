"""A saga has one ledger and one end: on a worker, eagerly, and on a worker in the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
from celery import Celery

from celery_saga import SagaManager
from celery_saga.testing.embedded import EmbeddedValkey
from tests.worker.apps.sagas import MEMORY, SCENARIOS
from tests.worker.harness import ROOT, Site
from tests.worker.ledger import SETTINGS, begin, expect, record, records

pytestmark = [
    pytest.mark.worker,
    # Of the compensation whose input only its own step returns: it is one of the scenarios.
    pytest.mark.filterwarnings("ignore::celery_saga.errors.DefinitionWarning"),
]

EVERYTHING = {**SCENARIOS, "memory": MEMORY}
WITHOUT_WORKER = [name for name, one in EVERYTHING.items() if not one.workers]


#: Broker and store: one server, or two, where checkpoint and message are written one by one.
SERVERS = ["one server", "two servers"]


@pytest.fixture(scope="module")
def on_workers(valkey, journal, folder):
    """On prefork workers; once for each of ``SERVERS``."""

    @cache
    def on_workers(servers):
        with EmbeddedValkey() as other:
            site = Site(valkey.url(14), journal, folder)
            store = {} if servers == "one server" else {"saga_store_url": other.url()}
            site.settings.update({**SETTINGS, **store})
            site.app.conf.update(site.settings)
            try:
                site.worker("-c", "4", app="tests.worker.apps.everywhere")
                found = records(journal, site.app, SCENARIOS)
                result = begin(site.app, "memory")
                journal.wait(result.id, "began", 2)
                # The first ends by itself, sooner or later: nothing is sent to it any more.
                site.worker(app="tests.worker.apps.everywhere")
                found["memory"] = record(journal, result)
            finally:
                site.close()
        return found

    return on_workers


@pytest.fixture(scope="module")
def real(on_workers):
    return on_workers("one server")


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("servers", SERVERS)
def test_a_prefork_worker_does_what_is_written_down(on_workers, servers, name):
    expect(on_workers(servers)[name], EVERYTHING[name])


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_same_on_two_servers(on_workers, real, name):
    assert on_workers("two servers")[name] == real[name]


def eager(journal, store, **settings):
    app = Celery("eager", broker="memory://", set_as_current=False)
    app.conf.update(SETTINGS, task_always_eager=True, saga_store_url=store, **settings)
    SagaManager(app)
    try:
        return records(journal, app, WITHOUT_WORKER, timeout=0.1)
    finally:
        app.close()


class TestEager:
    @pytest.fixture(scope="class", params=["redis", "memory"])
    @classmethod
    def found(cls, request, valkey, journal):
        return eager(journal, {"redis": valkey.url(13), "memory": "memory://"}[request.param])

    @pytest.mark.parametrize("name", WITHOUT_WORKER)
    def test_the_same_as_on_a_worker(self, real, found, name):
        assert found[name] == real[name]

    @pytest.fixture(scope="class")
    @classmethod
    def propagating(cls, journal):
        return eager(journal, "memory://", task_eager_propagates=True)

    @pytest.mark.parametrize("name", WITHOUT_WORKER)
    def test_errors_that_celery_lets_through_end_in_the_saga_all_the_same(
        self, real, propagating, name
    ):
        assert propagating[name] == real[name]


class TestWorkerInTheProcess:
    """Of celery.contrib.testing."""

    PLACES = ("solo on redis", "threads on redis", "solo in memory", "threads in memory")

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, valkey, journal):
        """All places at once."""
        processes: dict[str, subprocess.Popen[str]] = {}
        for database, place in enumerate(cls.PLACES, start=10):
            url = valkey.url(database)
            urls: dict[str, Any] = {"broker_url": url, "result_backend": url}
            if place.endswith("memory"):
                urls = {"broker_url": "memory://", "result_backend": "cache+memory://"}
                urls["saga_store_url"] = "memory://"
                urls["broker_transport_options"] = {"polling_interval": 0.01}
            env = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "ignore",
                "SAGA_TEST_JOURNAL": journal.url,
                "SAGA_TEST_SETTINGS": json.dumps({**SETTINGS, **urls}),
            }
            command = [sys.executable, "-m", "tests.worker.apps.in_process", place.split()[0]]
            processes[place] = subprocess.Popen(
                command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
        try:
            return {place: process.communicate(timeout=100) for place, process in processes.items()}
        finally:
            for process in processes.values():
                process.kill()

    @pytest.mark.parametrize("name", EVERYTHING)
    @pytest.mark.parametrize("place", PLACES)
    def test_the_same_as_on_a_worker_of_its_own(self, real, found, place, name):
        assert json.loads(found[place][0])[name] == real[name]

    @pytest.mark.parametrize("place", PLACES)
    def test_its_heartbeat_ends_with_it(self, found, place):
        assert json.loads(found[place][0])["heartbeats"] == 0
