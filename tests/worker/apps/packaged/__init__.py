"""A project that keeps app and tasks in the package itself, with sagas.py inside."""

from celery import Celery

from celery_saga import SagaManager

app = Celery("packaged", set_as_current=False)
sagas = SagaManager(app)
app.config_from_object("tests.worker.apps.settings")


@app.task(name="packaged.plus", shared=False)
def plus(a):
    return {"a": a + 1}
