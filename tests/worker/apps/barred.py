"""The app of workers whose tasks work behind the barrier."""

from celery import Celery

from celery_saga import SagaManager
from tests.worker.apps import barred_steps, steps

__all__ = ["app", "barred_steps", "steps"]

app = Celery("barred")
sagas = SagaManager(app)
app.config_from_object("tests.worker.apps.settings")
