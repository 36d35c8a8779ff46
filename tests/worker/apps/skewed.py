"""The site's app on a machine whose clock is half a minute ahead."""

import time

from tests.worker.apps.site import app, steps

__all__ = ["app", "steps"]

AHEAD = 30.0

_true = time.time
time.time = lambda: _true() + AHEAD
