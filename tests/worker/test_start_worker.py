"""``celery.contrib.testing.worker.start_worker``: what is wrong is raised where it was called."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.worker.harness import ROOT
from tests.worker.servers import free_port

pytestmark = pytest.mark.worker

MEMORY = {"saga_store_url": "memory://"}


def started(pool: str, **settings: object) -> str:
    """What a process printed that starts such a worker of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.worker.apps.failing_start", pool, json.dumps(settings)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("pool", ["solo", "threads"])
@pytest.mark.parametrize(
    ("settings", "recorded"),
    [
        pytest.param({}, "SetupError: no store for sagas: the result backend", id="no store"),
        pytest.param(
            {"saga_store_url": "mongodb://localhost"},
            "SetupError: saga_store_url: expected a redis://",
            id="another kind of store",
        ),
        pytest.param(
            {**MEMORY, "accept_content": ["application/x-other"]},
            "SetupError: accept_content",
            id="no JSON",
        ),
        pytest.param(
            {**MEMORY, "saga_heartbeat": "often"},
            "SetupError: saga_heartbeat: expected seconds, more than 0, as a number or timedelta",
            id="no number",
        ),
        pytest.param(
            {**MEMORY, "saga_heartbeat": 6, "saga_heartbeat_ttl": 6},
            "SetupError: saga_heartbeat_ttl: expected more than saga_heartbeat",
            id="dead between two heartbeats",
        ),
    ],
)
def test_a_worker_that_is_set_up_wrongly(pool, settings, recorded):
    said = started(pool, **settings)

    assert said.startswith(recorded)
    assert said.endswith("[]\n"), "no thread of ours is left"


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_an_unavailable_store(pool):
    said = started(pool, saga_store_url=f"redis://127.0.0.1:{free_port()}/0")

    assert said.startswith("StoreUnavailable: the saga store does not answer")
    assert said.endswith("[]\n")


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_one_that_is_well(pool):
    assert started(pool, **MEMORY) == "started\n[]\n"
