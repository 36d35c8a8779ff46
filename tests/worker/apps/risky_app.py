"""The doctor's app with a saga that has a step of the risky kind."""

from celery_saga import Saga
from tests.worker.apps.doctor_app import admit, app, discharge, operate

__all__ = ["app"]

risky = Saga("risky", app=app)
risky.local_step(admit, inputs=[]).on_failure(discharge, inputs=[])
risky.local_step(operate, inputs=[])
risky.commit()
