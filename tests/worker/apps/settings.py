"""Celery's configuration for the apps of these tests; read when an app first needs it."""

import json
import os

broker_url = os.environ["SAGA_TEST_URL"]
result_backend = os.environ["SAGA_TEST_URL"]
worker_hijack_root_logger = True
globals().update(json.loads(os.environ.get("SAGA_TEST_SETTINGS", "{}")))
