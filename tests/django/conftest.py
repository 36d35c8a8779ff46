"""A server, a worker and a web process for a Django project."""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_saga.testing.embedded import EmbeddedValkey
from celery_saga.testing.processes import ManagedProcess
from tests.helpers import wait_for
from tests.worker.harness import ROOT, Worker


class Project:
    """A running project.

    Args:
        url: of broker, result backend and store.
        folder: for its database and logs.
        in_ready: whether ``AppConfig.ready`` constructs the manager.
    """

    def __init__(self, url: str, folder: Path, *, in_ready: bool = False) -> None:
        self.client = redis.Redis.from_url(url)
        self.client.flushdb()
        self.folder = folder
        self.env = {"SAGA_TEST_URL": url, "SAGA_TEST_DATABASE": str(folder / "db.sqlite3")}
        self.env["DJANGO_SETTINGS_MODULE"] = "tests.django.project.settings"
        if in_ready:
            self.env["SAGA_TEST_IN_READY"] = "1"
        self._stack = ExitStack()
        log = folder / "web.log"
        self._stack.enter_context(
            ManagedProcess(
                [sys.executable, "-m", "tests.django.serve"],
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.env},
                cwd=str(ROOT),
                log=str(log),
            )
        )
        found = wait_for(
            lambda: log.exists() and re.search(r"^port (\d+)$", log.read_text(), re.MULTILINE),
            timeout=40,
            description="the web process",
        )
        self.web_log, self._port = log, int(found[1])

    def worker(self, *options: str) -> Worker:
        """A worker of the project."""
        worker = Worker("tests.django.project", self.folder, self.env, options)
        self._stack.callback(worker.process.stop)
        return worker.wait_until_ready()

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a request; no JSON of a failed one."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}") as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, None

    def states(self, order: int) -> list[str]:
        """The state of an order, in a list; an empty one if the order does not exist."""
        found: list[str] = self.get(f"state/{order}")[1]["states"]
        return found

    def sagas(self) -> set[str]:
        """The ids of all sagas."""
        keys = self.client.scan_iter("saga:execution:*")
        return {key.decode().rpartition(":")[2] for key in keys}

    def close(self) -> None:
        """End its processes."""
        self._stack.close()
        self.client.close()


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(scope="session")
def project(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project with a prefork worker."""
    found = Project(valkey.url(0), tmp_path_factory.mktemp("django"))
    try:
        found.worker("-c", "2")
        yield found
    finally:
        found.close()
