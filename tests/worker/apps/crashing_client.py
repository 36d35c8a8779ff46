"""A process that starts or cancels a saga, and dies at it."""

import sys

from celery_saga import Saga, SagaManager
from tests.worker.apps import crashing
from tests.worker.apps.crashing import app
from tests.worker.apps.steps import late, undo

crashing.role = "client "
verb, saga_id = sys.argv[1:]
if verb == "start":
    saga = Saga("crashing", app=app)
    for name in "abc":
        saga.local_step(late, name=name).on_failure(undo)
    saga.commit().apply_async({}, saga_id=saga_id)
else:
    SagaManager(app).get(saga_id).cancel()
