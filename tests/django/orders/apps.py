"""The orders app; where the tests say so it sets up sagas when Django is ready."""

import os

from django.apps import AppConfig


class OrdersConfig(AppConfig):
    """Orders."""

    name = "tests.django.orders"
    label = "orders"

    def ready(self):
        from celery_saga import SagaManager
        from tests.django.project.celery import app

        if os.environ.get("SAGA_TEST_IN_READY"):
            SagaManager(app)
