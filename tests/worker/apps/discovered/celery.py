"""A project in the usual layout: celery.py, tasks.py, and sagas.py beside it."""

from celery import Celery

from celery_saga import SagaManager

app = Celery("discovered", set_as_current=False)
sagas = SagaManager(app)
app.config_from_object("tests.worker.apps.settings")
app.autodiscover_tasks(["tests.worker.apps.discovered"])
