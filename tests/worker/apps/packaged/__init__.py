"""A project that keeps app and tasks in the package itself, with sagas.py inside."""

import os

from celery import Celery

from celery_saga import SagaManager

app = Celery("packaged", set_as_current=False)
sagas = SagaManager(app)
app.conf.update(broker_url=os.environ.get("SAGA_TEST_URL"))
app.conf.update(result_backend=os.environ.get("SAGA_TEST_URL"))


@app.task(name="packaged.plus", shared=False)
def plus(a):
    return {"a": a + 1}
