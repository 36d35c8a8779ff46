"""The headers of a saga's start, which every message of the saga has.

A tenant or a request's id that a receiver of ``before_task_publish``, a task class or a tracer
puts among the headers of a message is known where the saga is started, and not in a worker's main
process, which sends what was lost and what waits for its time. So what the first message has beside
Celery's own headers is kept with the run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from celery.app.task import Context
from kombu.utils import json as kombu_json

log = logging.getLogger("celery_saga")

#: The message header that marks a step of a saga.
HEADER = "saga"

#: The two that Celery writes itself and that are the user's all the same.
STAMPS = frozenset({"stamped_headers", "stamps"})

#: What Celery, kombu and brokers write. A request's attributes are those of its message's headers.
_CELERYS = (
    frozenset(name for name in vars(Context) if not name.startswith("_"))
    | {"lang", "task", "argsrepr", "kwargsrepr", "compression", "origin", "celery_beat_task"}
    | {"x-death", HEADER}
) - STAMPS

_BROKERS = ("x-first-death-", "x-last-death-")


def users_headers(headers: Any) -> dict[str, Any]:
    """Those of a message's headers that are not Celery's, as plain JSON.

    What cannot be written as JSON is left out, with a warning.

    Args:
        headers: a mapping; anything else holds none.
    """
    if not isinstance(headers, Mapping):
        return {}
    found: dict[str, Any] = {}
    for name, value in headers.items():
        if name in _CELERYS or str(name).startswith(_BROKERS):
            continue
        if name in STAMPS and not value:
            continue
        try:
            found[str(name)] = json.loads(kombu_json.dumps(value))
        except (TypeError, ValueError):
            log.warning("header %r of a saga's start is no JSON and is not kept", name)
    return found


def as_sent(kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """The reverse of :func:`users_headers`, for the next message."""
    return kombu_json.loads(json.dumps(kept)) if kept else {}


def checked_headers(headers: Any) -> Mapping[str, Any]:
    """The headers that a caller gave.

    Raises:
        ValueError: they are no mapping of names to values that JSON can hold.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping) or not all(isinstance(name, str) for name in headers):
        raise ValueError(f"headers: expected a mapping of names to values, found {headers!r}")
    for name, value in headers.items():
        try:
            kombu_json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"headers: {name!r} cannot be sent as JSON ({error})") from error
    return headers
