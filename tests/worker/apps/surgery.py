"""The clinic's app with a saga that has a step of the risky kind."""

from celery_saga import Saga
from tests.worker.apps.clinic import admit, app, discharge, operate

__all__ = ["app"]

surgery = Saga("surgery", app=app)
surgery.local_step(admit, inputs=[]).on_failure(discharge, inputs=[])
surgery.local_step(operate, inputs=[])
surgery.commit()
