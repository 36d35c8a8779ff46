"""Tasks for tests that care about how they are run, not about what they do.

Each notes its begin and end. What it does between is said by two keys of the context, which name
steps as ``step/direction``: one in ``hold`` waits at a gate, one in ``fail`` raises.
"""

from __future__ import annotations

import time

from celery import shared_task

from celery_saga import saga_info
from tests.worker.apps.journal import note, wait_at


def behave(hold: tuple[str, ...], fail: tuple[str, ...]) -> None:
    info = saga_info()
    assert info is not None
    me = f"{info.step}/{info.direction}"
    note("began")
    if me in hold:
        wait_at(me)
    if me in fail:
        raise ValueError(f"{me} fails")
    note("ended")


@shared_task(acks_late=True)
def late(hold=(), fail=()):
    behave(hold, fail)


@shared_task
def early(hold=(), fail=()):
    behave(hold, fail)


@shared_task(acks_late=True, reject_on_worker_lost=True)
def requeued(hold=(), fail=()):
    behave(hold, fail)


@shared_task(acks_late=True)
def compensation(hold=(), fail=()):
    behave(hold, fail)


@shared_task
def nap(seconds):
    """A task of no saga that keeps a ref busy."""
    time.sleep(seconds)


@shared_task(bind=True, acks_late=True)
def fetch(self, page=0, options=None, hold=False):
    """Changes its own message as it retries, as a task does that fetches page after page."""
    note("began", page=page)
    if options:
        raise self.retry(countdown=0, **options)
    if hold:
        wait_at("fetch")
