"""What pytest-celery makes a worker's app module of: it replaces three lines of this text."""

from __future__ import annotations

from celery import Celery

from celery_saga import SagaManager

imports = None

app = Celery("celery_test_app")
SagaManager(app)
config = None

if config:
    app.config_from_object(config)
