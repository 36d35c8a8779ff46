"""Where the messages of steps go, as far as that can be told without the broker."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery

from celery_saga.core.plan import Call
from celery_saga.messaging.broker import routes_by_name

log = logging.getLogger("celery_saga")

#: Options by which messages go to an exchange, which gives them to queues that only it knows.
_ELSEWHERE = frozenset({"exchange", "routing_key"})


def queue_of(app: Celery, call: Call) -> str:
    """The queue to which ``app`` sends a step's task; empty: nobody knows.

    An exchange decides, or a route that is a function: it may look at the message, and what it says
    without one is worth nothing.
    """
    options = _places(app, call)
    if "queue" in options and not options.keys() >= _ELSEWHERE:
        return _name(options["queue"])
    if options.keys() & _ELSEWHERE or not routes_by_name(app):
        return ""
    try:
        route = app.amqp.router.route(options, call.task)
    except Exception:
        log.debug("it is not known where task %r is sent", call.task, exc_info=True)
        return ""
    if not route.get("queue") and route.keys() & _ELSEWHERE:
        return ""
    return _name(route.get("queue") or app.conf.task_default_queue)


def exchange_of(app: Celery, call: Call) -> str:
    """The exchange that a step, its task or a route by names names; empty: none is known."""
    options = _places(app, call)
    if not options and routes_by_name(app):
        try:
            options = app.amqp.router.route({}, call.task)
        except Exception:
            log.debug("it is not known where task %r is sent", call.task, exc_info=True)
    return _name(options.get("exchange") or "")


def _places(app: Celery, call: Call) -> dict[str, Any]:
    """What a step or its task says of where its messages go."""
    task = app.tasks.get(call.task)
    options = {key: getattr(task, key, None) for key in ("queue", *_ELSEWHERE)} | dict(call.options)
    return {key: value for key, value in options.items() if value is not None}


def _name(queue: Any) -> str:
    return str(getattr(queue, "name", queue))
