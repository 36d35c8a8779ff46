"""The doctor's app with an option for every command, as Celery lets apps have."""

from click import Option

from tests.worker.apps.doctor_app import app

__all__ = ["app"]

app.user_options["preload"].add(Option(("-Z", "--zone"), default="europe"))
