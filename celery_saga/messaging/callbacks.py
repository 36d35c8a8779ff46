"""The callbacks of a saga's end: those of the call that starts it, and those of its definition.

They are kept like those of a Celery task: as signatures, under the names of its request
(``callbacks``, ``errbacks``). Those of the definition are under ``on``, by status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from celery import Celery, Signature
from celery.canvas import maybe_signature
from kombu.utils import json as kombu_json

from celery_saga.definition.builder import SagaDefinition


def linked(app: Celery, link: Any = None, link_error: Any = None) -> dict[str, Any]:
    """Return the ``link`` and ``link_error`` of a call, as a task's request has them.

    Raises:
        ValueError: one of them is neither a signature, a task or a task's name, nor a list of such.
    """
    found = {
        "callbacks": _signatures(app, "link", link),
        "errbacks": _signatures(app, "link_error", link_error),
    }
    return {name: given for name, given in found.items() if given}


def collect_callbacks(
    app: Celery, definition: SagaDefinition, kept: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Return all callbacks of a run, as plain JSON; ``None``: no callers, and no callbacks.

    Args:
        kept: the callbacks of the callers, as of :func:`linked` or of a request.
    """
    on = {
        status: _signatures(app, f"on_{status.lower()}", targets)
        for status, targets in definition.callbacks.items()
    }
    found = {**(kept or {}), **({"on": on} if on else {})}
    if kept is None and not found:
        return None
    plain: dict[str, Any] = json.loads(kombu_json.dumps(found))
    return plain


def callbacks_at(kept: Mapping[str, Any], status: str) -> dict[str, Any]:
    """Return the request's fields at an end with that status, with the definition's callbacks."""
    found = dict(kept)
    own = found.pop("on", {}).get(status)
    if own:
        kind = "callbacks" if status == "COMPLETED" else "errbacks"
        found[kind] = [*found.get(kind, ()), *own]
    return found


def _signatures(app: Celery, what: str, given: Any) -> list[Any]:
    targets = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
    return [_signature(app, what, target) for target in targets]


def _signature(app: Celery, what: str, target: Any) -> Any:
    if isinstance(target, str) and target:
        return app.signature(target)
    if isinstance(target, (Signature, Mapping)) and target.get("task"):
        return maybe_signature(target, app=app)
    if callable(getattr(target, "s", None)):
        return target.s()
    raise ValueError(
        f"{what}: expected a signature such as task.s(), a task or its name, found {target!r}"
    )
