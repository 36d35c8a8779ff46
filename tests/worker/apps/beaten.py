"""An app with sagas as beat entries: one by its name in the schedule, one as a signature."""

from tests.worker.apps import canvas
from tests.worker.apps.functional import app

__all__ = ["app"]

app.conf.beat_schedule = {
    "by name": {
        "task": "celery_saga.start",
        "schedule": 0.5,
        "kwargs": {"saga": "canvas counting", "context": {"n": 1_001, "limit": 2_000}},
        "options": {"expires": 30},
    },
}
app.add_periodic_task(0.5, canvas.counting.s(n=3_001, limit=4_000), name="by signature")
