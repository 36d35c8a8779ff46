"""The site's app with a plugin that says it is older."""

from celery_saga import _version
from tests.worker.apps.site import app, steps

__all__ = ["app", "steps"]

_version.__version__ = "0.0.1"
