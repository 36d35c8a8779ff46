"""The app that brings the barrier's table."""

from django.apps import AppConfig


class BarrierConfig(AppConfig):
    """Sagas' barrier."""

    name = "celery_saga.contrib.barrier.django"
    label = "celery_saga_barrier"
    verbose_name = "saga barrier"
