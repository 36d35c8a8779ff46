"""A project before and after a deploy, as ``SHOP_VERSION`` says: ``1``, ``2``, or ``3`` again."""

import os

from celery_saga import SagaContext, saga_step
from tests.worker.apps.site import app, steps

__all__ = ["app", "steps"]

SECOND = os.environ.get("SHOP_VERSION") == "2"


def _task(name, body):
    return app.task(body, name=name, acks_late=True)


def body(hold=(), fail=()):
    steps.behave(hold, fail)


@app.task(name="versions.yes")
def yes():
    return True


if SECOND:
    # The new name, and the old one beside it until the running sagas have ended.
    _task("versions.new_name", body)

    def old_name(hold=(), fail=()):
        body(hold, fail)

    _task("versions.old_name", old_name)
else:
    _task("versions.old_name", body)
    _task("versions.removed", body)

    @saga_step
    def removed_function(context: SagaContext) -> None:
        steps.behave((), ())
