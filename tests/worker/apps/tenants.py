"""A project of many tenants: which one is at work is in the messages' headers alone."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Any

from celery import Celery, signals

from celery_saga import AbortSaga, Saga, SagaManager, saga_info
from tests.worker.apps.journal import bodies_of, note, wait_at

app = Celery("tenants", set_as_current=False)  # tests import it too
SagaManager(app)
app.config_from_object("tests.worker.apps.settings")

tenant: ContextVar[str] = ContextVar("tenant", default="")


@signals.before_task_publish.connect(weak=False)
def put(headers: dict[str, Any], **kwargs: Any) -> None:
    if tenant.get():
        headers.setdefault("tenant", tenant.get())


@signals.task_prerun.connect(weak=False)
def take(task: Any, **kwargs: Any) -> None:
    tenant.set((task.request.headers or {}).get("tenant", ""))


@signals.task_postrun.connect(weak=False)
def leave(**kwargs: Any) -> None:
    tenant.set("")


def record() -> None:
    note("began", tenant=tenant.get())


@app.task(acks_late=True)
def book():
    record()


@app.task
def cancel():
    record()
    if bodies_of("book") < 3:  # the step itself has noted one
        raise RuntimeError("not at the first time")


@app.task
def pay():
    record()
    raise AbortSaga("declined")


@app.task(acks_late=True)
def at_a_gate():
    record()
    if bodies_of(saga_info().step) == 1:
        wait_at("never")


@app.task
def at_last():
    record()
    if bodies_of("later") < 2:
        raise RuntimeError("not at the first time")


@app.task(time_limit=1)
def too_long():
    record()
    time.sleep(60)


@app.task(bind=True)
def again(self):
    record()
    if self.request.retries < 1:
        raise self.retry(countdown=0.01)


def _saga(title: str, *steps: Any, **options: Any) -> Saga:
    saga = Saga(f"tenants-{title}", app=app)
    for number, step in enumerate(steps):
        saga.local_step(step, **(options if number == 0 else {}))
    return saga.commit()


def _compensated(name: str, *steps: Any) -> Saga:
    saga = Saga(f"tenants-{name}", app=app)
    saga.local_step(book, name="book").on_failure(cancel, retry_backoff=0.01)
    for step in steps:
        saga.local_step(step, read_only=True)
    return saga.commit()


SAGAS = {
    "forward": _saga("forward", book, again),
    "compensation sent by the sweep": _compensated("compensated", pay),
    "the engine's own retry": _saga(
        "later", at_last, book, name="later", retriable=True, max_attempts=3, retry_backoff=0.01
    ),
    "a process that is killed": _saga("killed", at_a_gate, book),
    "a hard time limit": _compensated("limited", too_long),
}


def disconnect() -> None:
    """The process of the tests has other apps, and receivers are for all of them."""
    signals.before_task_publish.disconnect(put)
    signals.task_prerun.disconnect(take)
    signals.task_postrun.disconnect(leave)
