"""A project whose tasks exist, and are used, before anything of sagas is imported.

As with Django: ``AppConfig.ready`` runs when the worker imports its modules.
"""

from celery import Celery

from tests.worker.apps.steps import behave

app = Celery("ready", include=["tests.worker.apps.ready_hook"])
app.config_from_object("tests.worker.apps.settings")


@app.task(name="ready.step", acks_late=True)
def step():
    behave((), ())


assert step.name == "ready.step"  # touched: the task is bound by now
