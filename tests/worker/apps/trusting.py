"""The site's app, which believes a trial of the broker for a moment only."""

from celery_saga import outbox
from tests.worker.apps.site import app

__all__ = ["app"]

assert outbox.TRUST > 1
outbox.TRUST = 0.1
