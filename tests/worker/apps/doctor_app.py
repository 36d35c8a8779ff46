"""An app whose sagas the doctor looks at."""

from celery import Celery

from celery_saga import Saga, SagaManager

app = Celery("doctored")
sagas = SagaManager(app)
app.config_from_object("tests.worker.apps.settings")


@app.task(acks_late=True)
def admit():
    """Safe to run again."""


@app.task(acks_late=True)
def discharge():
    """Compensates it."""


@app.task
def operate():
    """Acknowledged early: not to be run twice."""


treatment = Saga("treatment", app=app)
treatment.local_step(admit, inputs=[]).on_failure(discharge, inputs=[])
treatment.commit()
