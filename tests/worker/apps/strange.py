"""A worker of an older deploy: it has the tasks, and not the plugin."""

from celery import Celery

from tests.worker.apps import strange_steps

__all__ = ["app", "strange_steps"]

app = Celery("strange")
app.config_from_object("tests.worker.apps.settings")
