"""An app whose worker pauses between the end of a saga and the publication of its result."""

import time

from celery_saga.messaging.results import CeleryResults
from tests.worker.apps import canvas
from tests.worker.apps.functional import app

__all__ = ["app"]


def publish(self, execution):
    canvas.record(f"end of {execution.saga_id}", status=execution.status.value)
    time.sleep(600)


CeleryResults.publish = publish  # type: ignore[method-assign]
