"""Found by Celery."""

from tests.worker.apps.discovered.celery import app


@app.task(name="discovered.plus", shared=False)
def plus(a):
    return {"a": a + 1}
