"""The site's app with a plugin that does not know the doctor's question yet."""

from celery.worker.control import Panel

from celery_saga.worker.remote_control import COMMAND
from tests.worker.apps.site import app, steps

__all__ = ["app", "steps"]

del Panel.data[COMMAND], Panel.meta[COMMAND]
