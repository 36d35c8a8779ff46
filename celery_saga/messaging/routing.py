"""Finds the queue of a step's messages, as far as it is known without the broker."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery

from celery_saga.core.plan import Call
from celery_saga.messaging.broker import routes_by_name

log = logging.getLogger("celery_saga")

#: Options that route messages to an exchange, whose queues only the broker knows.
_ELSEWHERE = frozenset({"exchange", "routing_key"})


def queue_of(app: Celery, call: Call) -> str:
    """Return the queue to which ``app`` sends a step's task; empty: not known.

    It is not known if an exchange decides, or a route that is a function: it may read the message,
    and without one its return value means nothing.
    """
    options = _places(app, call)
    if "queue" in options and not options.keys() >= _ELSEWHERE:
        return _name(options["queue"])
    if options.keys() & _ELSEWHERE or not routes_by_name(app):
        return ""
    try:
        route = app.amqp.router.route(options, call.task)
    except Exception:
        log.debug("the queue of task %r is not known", call.task, exc_info=True)
        return ""
    if not route.get("queue") and route.keys() & _ELSEWHERE:
        return ""
    return _name(route.get("queue") or app.conf.task_default_queue)


def exchange_of(app: Celery, call: Call) -> str:
    """Return the exchange that a step, its task or a route by names sets; empty: not known."""
    options = _places(app, call)
    if not options and routes_by_name(app):
        try:
            options = app.amqp.router.route({}, call.task)
        except Exception:
            log.debug("the queue of task %r is not known", call.task, exc_info=True)
    return _name(options.get("exchange") or "")


def _places(app: Celery, call: Call) -> dict[str, Any]:
    """The routing options of a step and its task."""
    task = app.tasks.get(call.task)
    options = {key: getattr(task, key, None) for key in ("queue", *_ELSEWHERE)} | dict(call.options)
    return {key: value for key, value in options.items() if value is not None}


def _name(queue: Any) -> str:
    return str(getattr(queue, "name", queue))
