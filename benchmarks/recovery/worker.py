"""What the worker processes load: ``celery -A benchmarks.recovery.worker worker``."""

from __future__ import annotations

import os

from benchmarks.recovery.app import Installation, Place

app = Installation(Place.from_environment(os.environ)).app
