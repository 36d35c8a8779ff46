"""The app of the workers of the failure table."""

from celery import Celery

from celery_saga import SagaManager
from tests.worker.apps import bodies

__all__ = ["app", "bodies"]

app = Celery("table")
sagas = SagaManager(app)
app.config_from_object("tests.worker.apps.settings")
app.conf.task_annotations = {bodies.__name__ + ".annotated": {"@__call__": bodies.guarded}}
