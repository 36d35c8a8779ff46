"""A worker without the plugin."""

from celery import Celery

app = Celery("foreign")
app.config_from_object("tests.worker.apps.settings")


@app.task(name="foreign.mail")
def mail():
    """Not a step of any saga."""
