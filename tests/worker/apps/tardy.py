"""The site's app in a worker that answers one question and then takes its time."""

import time

from celery.worker.control import Panel

from tests.worker.apps.site import app, steps

__all__ = ["app", "steps"]

_true = Panel.data["active_queues"]


def active_queues(state):
    time.sleep(8)
    return _true(state)


Panel.data["active_queues"] = active_queues
