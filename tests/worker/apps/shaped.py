"""An app of tasks in all shapes, for a worker with the plugin or without it."""

from __future__ import annotations

import os

from celery import Celery

from celery_saga import SagaManager
from tests.worker.apps.shapes import declare, handled

app = Celery("shaped")
if os.environ["SAGA_TEST_SHAPES"] == "with":
    SagaManager(app)
app.config_from_object("tests.worker.apps.settings")
shapes = declare(app)


@app.task(name="shaped.record")
def record():
    """What the handlers of the tasks before it were called with; the pool has one process."""
    found = list(handled)
    handled.clear()
    return found


@app.task(name="shaped.request", bind=True)
def request(self):
    """The attributes of its request, before and after it has run other tasks on the spot."""
    before = sorted(vars(self.request))
    record()
    record.apply()
    return [before, sorted(vars(self.request))]
