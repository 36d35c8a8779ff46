"""Deliveries that have no outcome of their own, in a worker's main process."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery, Task
from celery.concurrency.solo import TaskPool
from celery.contrib.testing.mocks import TaskMessage
from celery.exceptions import Ignore
from celery.worker.request import Request, create_request_cls

from celery_saga import SagaManager
from celery_saga.core.execution import Claim, Direction, StepRef
from celery_saga.core.ports import CLAIMED, Refused
from celery_saga.messaging.events import Ended, refused, started

REF = StepRef((0,), Direction.FORWARD, 1)


class TheirRequest(Request):
    """A request class of a project."""

    def on_failure(self, *args: Any, **kwargs: Any) -> Any:
        self.heard = True
        return super().on_failure(*args, **kwargs)


class Eventer:
    def __init__(self, enabled: bool = True) -> None:
        self.enabled, self.sent = enabled, []

    def send(self, kind: str, **fields: Any) -> None:
        self.sent.append((kind, fields))


@pytest.fixture
def app() -> Celery:
    app = Celery("ends", broker="memory://", set_as_current=False)
    SagaManager(app)
    return app


def declared(app: Celery, **options: Any) -> Any:
    @app.task(name="ends.task", shared=False, **options)
    def task() -> None: ...

    return app.tasks["ends.task"]


def ended(task: Any, error: Exception, eventer: Eventer) -> Any:
    """A worker's request of the task, once its process has reported the error."""
    message = TaskMessage(task.name, id="order-7~f0~1")
    cls = create_request_cls(task.Request, task, TaskPool(), "w@host", eventer, app=task.app)
    options = {"app": task.app, "task": task, "hostname": "w@host", "eventer": eventer}
    request = cls(message, on_ack=lambda *args: None, on_reject=lambda *args: None, **options)
    try:
        raise error
    except Exception:
        # As it comes out of a process of the pool.
        info = pickle.loads(pickle.dumps(ExceptionInfo(internal=True)))
    request.on_accepted(1, 0.0)
    eventer.sent.clear()
    request.on_success((1, info, None))
    return request


WAYS = {
    "Celery's own": ({}, Request),
    "a class": ({"Request": TheirRequest}, TheirRequest),
    "its name": ({"Request": f"{__name__}:TheirRequest"}, TheirRequest),
    "of a base class": ({"base": type("Base", (Task,), {"Request": TheirRequest})}, TheirRequest),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_request_of_a_task_reports_the_end_and_stays_the_projects_own(app, way):
    options, base = WAYS[way]
    task, eventer = declared(app, **options), Eventer()
    request = ended(task, refused("order-7", REF, Refused("stale")), eventer)

    assert isinstance(request, base)
    assert base is Request or request.heard
    assert request.acknowledged
    fields = {"terminated": False, "signum": None, "expired": False}
    assert eventer.sent == [("task-revoked", {"uuid": "order-7~f0~1", **fields})]


def test_a_request_class_that_an_annotation_names() -> None:
    app = Celery("ends", broker="memory://", set_as_current=False)
    app.conf.task_annotations = {"ends.task": {"Request": TheirRequest}}
    SagaManager(app)
    eventer = Eventer()
    request = ended(declared(app), refused("order-7", REF, Refused("stale")), eventer)
    assert (request.heard, len(eventer.sent)) == (True, 1)


def test_the_start_task_reports_its_end_too(app):
    eventer = Eventer()
    ended(app.tasks["celery_saga.start"], started("order-7"), eventer)
    ((kind, fields),) = eventer.sent
    assert (kind, fields["result"], fields["runtime"] >= 0) == ("task-succeeded", "'order-7'", True)


@pytest.mark.parametrize(
    ("error", "options", "enabled"),
    [
        (Ignore("of the body"), {}, True),
        (Ended("a duplicate"), {}, True),
        (started("order-7"), {"send_events": False}, True),
        (started("order-7"), {}, False),
    ],
    ids=["another Ignore", "nothing to report", "a task without events", "a worker without events"],
)
def test_nothing_is_reported(app, error, options, enabled):
    eventer = Eventer(enabled)
    ended(declared(app, **options), error, eventer)
    assert eventer.sent == []


def test_the_class_is_not_looked_for_before_a_worker_wants_it(app):
    """Its module may import the tasks' module."""
    task = declared(app, Request="nowhere.to.be.found:Request")
    assert "nowhere" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        _ = task.Request


@pytest.mark.parametrize(
    ("refusal", "event"),
    [
        (Refused("stale"), "task-revoked"),
        (Refused("unknown saga"), "task-revoked"),
        (Refused("stale", Claim("t", "i")), "task-revoked"),
        (Refused(CLAIMED, Claim("t", "i")), ""),  # it runs elsewhere, and ends there
        (Refused(CLAIMED), ""),  # its retry is to come
    ],
)
def test_what_a_refused_delivery_reports(refusal, event):
    assert refused("order-7", REF, refusal).event == event
