"""A project in the usual layout: celery.py, tasks.py, and sagas.py beside it."""

import os

from celery import Celery

from celery_saga import SagaManager

app = Celery("discovered", set_as_current=False)
sagas = SagaManager(app)
app.conf.update(broker_url=os.environ.get("SAGA_TEST_URL"))
app.conf.update(result_backend=os.environ.get("SAGA_TEST_URL"))
app.autodiscover_tasks(["tests.worker.apps.discovered"])
