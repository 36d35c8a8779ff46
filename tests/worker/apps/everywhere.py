"""The worker's app for the scenarios; the functions among the steps are known once built."""

from tests.worker.apps.scenarios import INNER, SCENARIOS, build
from tests.worker.apps.site import app

__all__ = ["app"]

for name in (*SCENARIOS, *INNER):
    build(app, name)
