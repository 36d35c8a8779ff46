"""``celery -A ... flower`` and ``celery saga-flower`` as processes: the tab is there, unasked."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from celery_saga.testing.processes import ManagedProcess
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, late
from tests.worker.harness import ROOT, Site
from tests.worker.servers import free_port

pytest.importorskip("flower")
pytestmark = pytest.mark.worker


def page(url: str) -> str:
    """The page, or nothing while it cannot be had."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ""


@pytest.mark.parametrize("command", ["flower", "saga-flower"])
def test_sagas_of_the_app_are_shown(site: Site, folder: Path, command: str) -> None:
    port, log = free_port(), folder / f"{command}.log"
    result = site.saga(("a", late, compensation), name="shown").delay()
    arguments = ["-A", "tests.worker.apps.site", command, f"--port={port}", "--address=127.0.0.1"]
    with ManagedProcess(
        [sys.executable, "-m", "celery", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **site.environment()},
        cwd=str(ROOT),
        log=str(log),
    ) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: page(f"{url}/workers") or not process.alive, timeout=60)
        assert "Sagas</a>" in page(f"{url}/workers"), log.read_text()
        assert result.id in page(f"{url}/sagas")
        assert "queued" in page(f"{url}/saga/{result.id}")
    result.cancel()
