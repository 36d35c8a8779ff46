"""One server and one worker for the tests of this folder."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_saga.testing.embedded import EmbeddedValkey
from tests.worker.harness import Worker


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("fundamentals")
    with EmbeddedValkey() as server:
        os.environ["SAGA_TEST_URL"] = server.url(0)
        env = {"SAGA_TEST_URL": server.url(0)}
        worker = Worker("tests.fundamentals.shop", folder, env, ("-c", "2")).wait_until_ready()
        try:
            yield importlib.import_module("tests.fundamentals.shop")
        finally:
            worker.process.stop()
