"""An app with queues and exchanges of its own."""

from tests.worker.apps.queues import QUEUES
from tests.worker.apps.site import app

__all__ = ["app"]

app.conf.task_queues = QUEUES
