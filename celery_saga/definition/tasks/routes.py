"""Whether a task's queue and priority are set by its declaration or by a route."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from celery import Celery
from celery.app.routes import MapRoute

from celery_saga.core.plan import Call

log = logging.getLogger("celery_saga")

#: The options that set each of the two, under Celery's names.
_NAMED_BY = {"queue": ("queue", "exchange", "routing_key"), "priority": ("priority",)}


def filled(app: Celery, call: Call, options: Mapping[str, Any]) -> Call:
    """Return ``call`` with those of ``options`` that are not set for it yet.

    The step itself, an attribute of its task, or a route by task name may set them. A route
    that is a function is not called, because it may read the message.

    Args:
        options: ``queue`` and ``priority``, if any.
    """
    there = {**_of_route(app, call.task), **_of_task(app, call.task), **call.options}
    added = {
        option: value
        for option, value in options.items()
        if all(there.get(name) is None for name in _NAMED_BY[option])
    }
    return replace(call, options={**call.options, **added}) if added else call


def _of_task(app: Celery, name: str) -> dict[str, Any]:
    task = app.tasks.get(name)
    found = {key: getattr(task, key, None) for keys in _NAMED_BY.values() for key in keys}
    if found["priority"] == app.conf.task_default_priority:
        del found["priority"]  # Celery gives it to all tasks that have none
    return {key: value for key, value in found.items() if value is not None}


def _of_route(app: Celery, name: str) -> dict[str, Any]:
    try:
        router: Any = app.amqp.router
        routes: Any = [each for each in router.routes or () if type(each) is MapRoute]
        found = next(filter(None, (route(name) for route in routes)), None)
    except Exception:
        log.debug("the routes of task %r cannot be read", name, exc_info=True)
        return {}
    return dict(found or {})
