"""The site's app, with tasks that run whole sagas inside of themselves."""

from __future__ import annotations

from celery_saga import Saga
from tests.worker.apps.site import app
from tests.worker.apps.steps import compensation, late

__all__ = ["app"]

saga = Saga("eagerly", app=app)
saga.local_step(late, name="a").on_failure(compensation)
saga.local_step(late, name="b").on_failure(compensation)
saga.commit()


@app.task(name="eagerly.run")
def run(saga_id: str, hold: list[str]) -> str:
    return str(saga.s(hold=hold).apply(task_id=saga_id).status)
