"""A process that starts a saga and has forgotten SagaManager."""

import os

from celery import Celery

from celery_saga import Saga

app = Celery("bare", broker=os.environ.get("BARE_BROKER"), set_as_current=False)


@app.task(shared=False)
def step():
    pass


saga = Saga("bare", steps=[step]).commit()
