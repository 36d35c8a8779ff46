"""The headers of a saga's start, which every message of the saga has.

A receiver of ``before_task_publish``, a task class or a tracer may add headers, such as a tenant or
a request's id. They are known where the saga is started. The main process of a worker, which sends
lost and delayed messages again, does not know them. So the headers of the first message that are
not Celery's own are kept with the run.
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

#: The message header of a remote step's request: saga id, ref and token, with which it is replied.
REQUEST = "saga_request"

#: The two headers that Celery writes and that belong to the user nevertheless.
STAMPS = frozenset({"stamped_headers", "stamps"})

#: The headers that Celery, kombu and brokers write. A request has them as attributes.
_CELERYS = (
    frozenset(name for name in vars(Context) if not name.startswith("_"))
    | {"lang", "task", "argsrepr", "kwargsrepr", "compression", "origin", "celery_beat_task"}
    | {"x-death", HEADER, REQUEST}
) - STAMPS

_BROKERS = ("x-first-death-", "x-last-death-")


def users_headers(headers: Any) -> dict[str, Any]:
    """Return the headers of a message that are not Celery's, as plain JSON.

    A header that is not JSON-serializable is left out, with a warning.

    Args:
        headers: a mapping; any other value has no headers.
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
            log.warning("header %r of a saga's start is not JSON and is not kept", name)
    return found


def as_sent(kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """Reverse :func:`users_headers` for the next message."""
    return kombu_json.loads(json.dumps(kept)) if kept else {}


def checked_headers(headers: Any) -> Mapping[str, Any]:
    """Return the headers that a caller gave.

    Raises:
        ValueError: they are not a mapping of names to JSON-serializable values.
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
