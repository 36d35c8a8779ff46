"""The Celery app, as Celery's documentation has it for Django; one line is new."""

import os

from celery import Celery

from celery_saga import SagaManager

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django.project.settings")

app = Celery("project")
if not os.environ.get("SAGA_TEST_IN_READY"):  # else AppConfig.ready does it
    sagas = SagaManager(app)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
