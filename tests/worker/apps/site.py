"""The app of workers that are started for one test."""

from celery import Celery

from celery_saga import SagaManager
from tests.worker.apps import steps

__all__ = ["app", "steps"]

app = Celery("site")
sagas = SagaManager(app)
app.config_from_object("tests.worker.apps.settings")
