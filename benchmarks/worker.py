"""What the worker processes load: ``celery -A benchmarks.worker worker``."""

from __future__ import annotations

import os

from benchmarks import trips
from benchmarks.app import Bench, Place

_place = Place.from_environment(os.environ)
if _place.trips:
    # Before any connection is made, in all variants alike.
    trips.count_into(_place.trips, apart_from=_place.ends)

app = Bench(_place).app
