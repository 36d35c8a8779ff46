"""A step that waits for another saga, which it must not."""

from celery import shared_task

from celery_saga import Saga
from tests.worker.apps.functional import app
from tests.worker.apps.steps import late

inner = Saga("inner", app=app, steps=[late]).commit()


@shared_task(name="results.waits_inside")
def waits_inside():
    inner.delay().get(timeout=1)
