"""The site's app, whose processes die after a retry of Celery's, when the test says so."""

from __future__ import annotations

import os
import signal

from celery import signals

from celery_saga.core.execution import StepRef
from tests.worker.apps import crashing_steps
from tests.worker.apps.journal import _client
from tests.worker.apps.site import app

__all__ = ["app", "crashing_steps"]


@signals.task_postrun.connect
def linger(task_id: str = "", state: str = "", **kwargs: object) -> None:
    """Celery has sent the retry, and the main process does not know yet that this attempt ended."""
    found = StepRef.parse(task_id)
    if found is not None and state == "RETRY":
        _client(os.getpid()).blpop([f"gate:{found[0]}:linger"], timeout=60)
        os.kill(os.getpid(), signal.SIGKILL)
