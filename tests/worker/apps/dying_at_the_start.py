"""An app of which the first process that has started a saga dies before it can say so."""

import os
import signal

from celery_saga.core.orchestrator import Orchestrator
from tests.worker.apps import canvas
from tests.worker.apps.functional import app

__all__ = ["app"]

start = Orchestrator.start


def start_and_die(self, plan, saga_id, *args, **kwargs):
    answer = start(self, plan, saga_id, *args, **kwargs)
    if canvas._client(os.getpid()).set(f"died:{saga_id}", 1, nx=True):
        os.kill(os.getpid(), signal.SIGKILL)
    return answer


Orchestrator.start = start_and_die  # type: ignore[method-assign]
