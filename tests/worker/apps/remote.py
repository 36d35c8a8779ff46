"""The app of workers that run sagas with remote steps."""

from celery import Celery

from celery_saga import SagaManager
from tests.worker.apps import remote_steps, steps

__all__ = ["app", "remote_steps", "steps"]

app = Celery("remote")
sagas = SagaManager(app)
app.config_from_object("tests.worker.apps.settings")
