"""Found by SagaManager; nothing imports it."""

from celery_saga import Saga
from tests.worker.apps.packaged import app, plus

doubling = Saga("packaged", app=app)
doubling.local_step(plus)
doubling.local_step(lambda context: {"a": context.a * 2})
doubling.commit()
