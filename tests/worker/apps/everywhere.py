"""The worker's app for the scenarios; the functions among the steps are known once built."""

from tests.worker.apps import elsewhere
from tests.worker.apps.sagas import INNER, SCENARIOS, build
from tests.worker.apps.site import app

__all__ = ["app", "elsewhere"]

for name in (*SCENARIOS, *INNER):
    build(app, name)
