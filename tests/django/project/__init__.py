"""A Django project with a web process and Celery workers."""

from tests.django.project.celery import app

__all__ = ["app"]
