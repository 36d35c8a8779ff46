"""An app whose worker stands still between the end of a saga and the telling of it."""

import time

from celery_saga.messaging.results import CeleryResults
from tests.worker.apps import canvas
from tests.worker.apps.functional import app

__all__ = ["app"]


def publish(self, execution):
    canvas.told(f"end of {execution.saga_id}", status=execution.status.value)
    time.sleep(600)


CeleryResults.publish = publish  # type: ignore[method-assign]
