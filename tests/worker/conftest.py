"""Real servers and real workers, started once and shared by the tests of this folder."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_saga.contrib.embedded import EmbeddedValkey
from celery_saga.contrib.processes import ManagedProcess
from tests.helpers import wait_for

ROOT = Path(__file__).parent.parent.parent


class Worker:
    """A real ``celery worker`` process on an app module of these tests."""

    def __init__(self, app: str, url: str, folder: Path, *options: str, **env: str) -> None:
        self.log = folder / f"worker-{len(list(folder.iterdir()))}.log"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "INFO"]
        command += ["--without-mingle", "--without-gossip", *options]
        self.process = ManagedProcess(
            command,
            env={**os.environ, "SAGA_TEST_URL": url, "PYTHONPATH": str(ROOT), **env},
            cwd=str(ROOT),
            log=str(self.log),
        )

    def wait_until_ready(self) -> Worker:
        wait_for(lambda: " ready." in self.text() or not self.process.alive, timeout=30)
        assert self.process.alive, self.text()
        return self

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="saga-test-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server
