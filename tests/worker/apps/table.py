"""The app of the workers of the failure table."""

from celery import Celery

from celery_saga import SagaManager
from tests.worker.apps import ways

__all__ = ["app", "ways"]

app = Celery("table")
sagas = SagaManager(app)
app.config_from_object("tests.worker.apps.settings")
app.conf.task_annotations = {ways.__name__ + ".annotated": {"@__call__": ways.guarded}}
