"""Tasks for processes that die: some do not do at once what they are for.

``once`` is a mapping of ``step/direction`` to what its first body does in place of returning.
"""

from __future__ import annotations

from celery import shared_task

from celery_saga import Saga, saga_info
from tests.worker.apps.journal import is_first_body, note, remember, wait_at


def behave(task, hold, fail, once):
    info = saga_info()
    me = f"{info.step}/{info.direction}"
    note("began")
    if me in hold:
        wait_at(me)
    record = (once or {}).get(me) if is_first_body() else None
    if record == "retry":
        raise task.retry(countdown=0)
    if record == "exit":
        raise SystemExit
    if record == "fail" or me in fail:
        raise ValueError(f"{me} fails")
    note("ended")


@shared_task(bind=True, acks_late=True)
def late(self, hold=(), fail=(), once=None):
    behave(self, hold, fail, once)


@shared_task(bind=True)
def early(self, hold=(), fail=(), once=None):
    behave(self, hold, fail, once)


@shared_task(bind=True, acks_late=True, retry_on_worker_lost=True, default_retry_delay=1)
def resent(self, hold=(), fail=(), once=None):
    behave(self, hold, fail, once)


@shared_task(bind=True, acks_late=True)
def compensation(self, hold=(), fail=(), once=None):
    behave(self, hold, fail, once)


@shared_task
def compensation_needing(receipt):
    note("began", receipt=receipt)


@shared_task
def record(result, saga_id):
    """What the callers of a saga hear."""
    remember(saga_id, "notified")


by_message = Saga("started by a message")
by_message.local_step(late, name="a").on_failure(compensation)
by_message.commit()
