"""The site's app after a deploy that brought one more task."""

from tests.worker.apps.site import app, steps

__all__ = ["app", "newcomer"]


@app.task(name="site.newcomer")
def newcomer():
    steps.behave((), ())
