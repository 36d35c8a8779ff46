"""A caller and another service: their workers, and sagas between the two."""

from __future__ import annotations

import warnings
from typing import Any

from celery_saga import DefinitionWarning, Saga, SagaResult
from tests.worker.apps import remote_steps as remote
from tests.worker.apps.steps import compensation, late
from tests.worker.harness import Site, Worker

#: The routes of the caller: the other service's queue.
ROUTES = {"task_routes": {"stock.*": {"queue": "stock"}}}


def calling(site: Site) -> Site:
    """The site, whose app sends requests to the other service."""
    site.settings.update(ROUTES)
    site.app.conf.update(**ROUTES)
    return site


def own_worker(site: Site) -> Worker:
    return site.worker("-Q", "celery", app="tests.worker.apps.remote")


def service(site: Site) -> Worker:
    """A worker of the other service."""
    return site.worker("-Q", "stock", "-c", "1", app="tests.worker.apps.participant")


def order(site: Site, *, action: Any = remote.ask, name: str = "order", **about: Any) -> Saga:
    """A local step, the remote one, and another local one."""
    handlers = {key: about.pop(key, None) for key in ("success", "error", "failure")}
    saga = Saga(name, app=site.app)
    saga.local_step(late, name="a").on_failure(compensation)
    step = saga.remote_step(action, name="stock", **about)
    for key, handler in handlers.items():
        if handler is not None:
            getattr(step, f"on_{key}")(handler)
    saga.local_step(late, name="b").on_failure(compensation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DefinitionWarning)  # some have no compensation
        saga.commit()
        saga.plan  # noqa: B018 - the same when it is made
    return saga


FULL: dict[str, Any] = {
    "success": remote.took,
    "error": remote.refused,
    "failure": remote.ask_back,
}


def said(site: Site, result: SagaResult) -> list[str]:
    """What bodies did, in order: ours as ``step/direction``, the other service's by their names."""
    lines = site.journal.of(result.id)
    kept = [line for line in lines if line["what"] != "ended"]
    return [f"{x['step']}/{x['direction']}" if x["what"] == "began" else x["what"] for x in kept]
