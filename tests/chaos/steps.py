"""The tasks of these tests; the context says what they do, as in ``tests.worker.apps.steps``.

pytest-celery copies this file to its workers and imports everything from it by name.
"""

from __future__ import annotations

from celery import shared_task

from celery_saga import saga_info
from tests.worker.apps.journal import bodies_of
from tests.worker.apps.steps import behave, early, late, requeued
from tests.worker.apps.steps import compensation as compensate

__all__ = ["compensate", "declining", "early", "late", "requeued", "retrying"]


@shared_task(acks_late=True)
def declining(hold=()):
    """Keeps records of its own, and declines what it was asked for before."""
    info = saga_info()
    assert info is not None
    done = bodies_of(info.step) > 0
    behave(() if done else hold, (f"{info.step}/f",) if done else ())


@shared_task(bind=True, acks_late=True)
def retrying(self, hold=()):
    """Needs one of Celery's own retries."""
    behave(() if self.request.retries else hold, ())
    if not self.request.retries:
        raise self.retry(countdown=0.1)
