"""What the tests of the doctor on real parts share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Celery

from celery_saga import SagaManager
from celery_saga.ops.doctor import Report, diagnose
from celery_saga.ops.doctor.findings import Finding
from tests.worker.harness import ROOT

#: The defaults: a busy machine must not make a live worker look dead.
UNHURRIED = {"saga_heartbeat": 2.0, "saga_heartbeat_ttl": 6.0}


def of(report: Report, *checks: str) -> list[Finding]:
    """The findings of some checks."""
    return [finding for finding in report.findings if finding.check in checks]


def said(report: Report, *checks: str) -> list[tuple[str, str]]:
    """Level and setting of the findings of some checks."""
    return [(finding.level.value, finding.setting) for finding in of(report, *checks)]


@contextmanager
def app_on(store: str, broker: str = "memory://", **settings: Any) -> Iterator[Celery]:
    """An app with a manager, on servers of the test's own."""
    app = Celery("doctored", broker=broker, set_as_current=False)
    app.conf.update(saga_store_url=store, **settings)
    SagaManager(app)
    try:
        yield app
    finally:
        app.close()


def examined(store: str, broker: str = "memory://", **settings: Any) -> Report:
    """The report on such an app; it waits for workers for a moment only."""
    with app_on(store, broker, **settings) as app:
        return diagnose(app, timeout=0.2)


class Ran:
    """What a verb of ``celery saga`` said and how it ended."""

    def __init__(
        self,
        app: str,
        *arguments: str,
        env: Mapping[str, str],
        before: Any = (),
        verb: str = "doctor",
    ) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "celery", *before, "-A", app, "saga", verb, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            cwd=str(ROOT),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def document(self) -> dict[str, Any]:
        """Its JSON document."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def said(self, check: str) -> list[tuple[str, str]]:
        """Level and setting of a check's findings in the document."""
        found = self.document["findings"]
        return [(each["level"], each["setting"]) for each in found if each["check"] == check]
