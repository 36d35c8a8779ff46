"""Tasks that are steps of sagas, and run as well by a worker that has not heard of those."""

from __future__ import annotations

import os

import redis
from celery import Task, shared_task


class Silent(Task):
    """Sends nothing, as the task of a feature that is switched off."""

    def apply_async(self, *args, **options):
        return None


@shared_task
def counted(key):
    redis.Redis.from_url(os.environ["SAGA_TEST_URL"]).incr(f"celery-count:{key}")


@shared_task(base=Silent)
def silent():
    raise AssertionError("no worker has sent it")


@shared_task
def routed():
    raise AssertionError("no queue has it")
