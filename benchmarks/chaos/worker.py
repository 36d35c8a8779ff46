"""What the worker processes of sagas load: ``celery -A benchmarks.chaos.worker worker``."""

from __future__ import annotations

import os

from benchmarks.chaos.app import BROKER, HEARTBEAT, STORE, make_app

app = make_app(os.environ[BROKER], os.environ[STORE])
if HEARTBEAT in os.environ:
    every, ttl = map(float, os.environ[HEARTBEAT].split())
    app.conf.update(saga_heartbeat=every, saga_heartbeat_ttl=ttl)
