"""The site's app, which caches a probe of the broker for a moment only."""

from celery_saga.messaging.redis import publish
from tests.worker.apps.site import app

__all__ = ["app"]

assert publish.PROBE_RESULT_TTL > 1
publish.PROBE_RESULT_TTL = 0.1
