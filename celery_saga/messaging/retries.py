"""Records how a task's retry changes the message of its step.

``self.retry(kwargs=..., queue=..., time_limit=...)`` makes a message of its own. Its differences
from the delivered one are kept, in case the message has to be sent again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from kombu.utils import json as kombu_json

from celery_saga.definition.options import MESSAGE_OPTIONS
from celery_saga.messaging.headers import users_headers

log = logging.getLogger("celery_saga")


def revision_of(request: Any, message: Any) -> dict[str, Any] | None:
    """Return how the message of a retry differs from the delivered one, as plain JSON.

    ``{"args": [...], "kwargs": {...}, "options": {"queue": "slow", ...}, "headers": {...}}``; what
    is equal is left out.

    Args:
        request: Celery's request, of the delivery that is retried.
        message: the retry's signature; ``None`` where it is not known.
    """
    if message is None:
        return None
    found: dict[str, Any] = {}
    if list(message.args) != list(request.args or ()):
        found["args"] = list(message.args)
    if dict(message.kwargs) != dict(request.kwargs or {}):
        found["kwargs"] = dict(message.kwargs)
    before, after = _delivered(request), message.options
    options = {name: _named(after[name]) for name in sorted(MESSAGE_OPTIONS & after.keys())}
    options = {name: it for name, it in options.items() if it not in (None, before.get(name))}
    known, given = users_headers(request.headers), users_headers(after.get("headers"))
    headers = {name: it for name, it in given.items() if name not in known or known[name] != it}
    found |= {"options": options} if options else {}
    found |= {"headers": headers} if headers else {}
    try:
        return json.loads(kombu_json.dumps(found)) if found else None
    except (TypeError, ValueError):
        # Celery cannot send it either, if messages are JSON.
        log.warning("what the retry of task %s changes is not kept", request.id, exc_info=True)
        return None


def _delivered(request: Any) -> Mapping[str, Any]:
    """The message options of a delivery, as far as its request has them."""
    info = request.delivery_info or {}
    exchange, routing_key = info.get("exchange"), info.get("routing_key")
    hard, soft = request.timelimit or (None, None)
    return {
        "queue": routing_key if exchange == "" else None,
        "exchange": exchange,
        "routing_key": routing_key,
        "priority": info.get("priority"),
        "time_limit": hard,
        "soft_time_limit": soft,
        "expires": request.expires,
    }


def _named(value: Any) -> Any:
    """The name of a queue or an exchange."""
    return getattr(value, "name", value)
