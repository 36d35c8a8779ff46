"""Found by SagaManager; nothing imports it."""

from celery_saga import Saga
from tests.worker.apps.discovered.celery import app
from tests.worker.apps.discovered.tasks import plus

doubling = Saga("discovered", app=app)
doubling.local_step(plus)
doubling.local_step(lambda context: {"a": context.a * 2})
doubling.commit()
