"""Turns a decided command into the data of a Celery message: ids, headers and reprs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from celery import Celery

from celery_saga.core.context.codec import JSON, Codec
from celery_saga.core.context.data import Values
from celery_saga.core.context.masking import (
    CONTEXT,
    DEFAULT_MASK_KEYS,
    MASK,
    is_sensitive,
    words_of,
)
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.events import Dispatch
from celery_saga.core.execution import Direction, SagaExecution, StepRef
from celery_saga.core.plan import Call, Choice, NestedSaga, Path, Plan, PlanStep
from celery_saga.core.ports import Message
from celery_saga.core.state import Request
from celery_saga.errors import UnreadableCheckpoint
from celery_saga.messaging.headers import HEADER, REQUEST, as_sent
from celery_saga.messaging.routing import queue_of
from celery_saga.settings import Settings

#: The engine task that takes a reply to a request of a remote step.
REPLY = "celery_saga.reply"

#: Characters of one value's repr in a step's arguments, and of all of them together.
VALUE_REPR, ARGUMENTS_REPR = 80, 800


class Messages:
    """Makes the messages of one app's steps.

    Args:
        app: the Celery app, for its settings.
        codec: encodes the arguments that are not in a checkpoint.
    """

    def __init__(self, app: Celery, codec: Codec = JSON) -> None:
        self._app, self._codec = app, codec

    def made(self, execution: SagaExecution, command: Dispatch) -> Message:
        """Make one step's message as plain data; its arguments are JSON texts."""
        ref = command.ref
        request = execution.steps[ref.path].open_request
        if request is not None:
            return self._request(execution, ref, request)
        call = call_of(execution, ref.path, ref.direction)
        name = execution.steps[ref.path].name
        values = execution.view(ref.path)
        kwargs = call.texts(execution.inputs_of(ref.path, ref.direction))
        args = [self._context(execution.saga_id, values)] if call.style == "context" else []
        args += self._response(execution, ref)
        args += [self._codec.dumps(value) for value in call.args[len(args) :]]
        options: dict[str, Any] = {
            **call.options,
            "task_id": ref.task_id(execution.saga_id),
            "root_id": execution.root,
            "parent_id": _parent_id(execution, ref),
            "add_to_parent": False,
            "serializer": "json",
            "ignore_result": not self._store_results,
            "retries": command.retries,
            "argsrepr": f"({CONTEXT},)" if call.style == "context" else "()",
            "kwargsrepr": self._kwargsrepr(execution, ref, call, kwargs),
            "headers": {**_headers(execution, ref.path), HEADER: mark_of(execution)},
        }
        return {
            "saga_id": execution.saga_id,
            "step": name,
            "task": call.task,
            "args": args,
            "kwargs": kwargs,
            "options": options,
            "template": call.alike,
        }

    def _response(self, execution: SagaExecution, ref: StepRef) -> list[str]:
        """The reply for the task that handles it; the worker reads it from the checkpoint."""
        request = execution.steps[ref.path].request
        if request is None or request.reply is None or ref.direction is Direction.COMPENSATION:
            return []
        return [JSON.dumps({"status": request.reply["status"]})]

    def _request(self, execution: SagaExecution, ref: StepRef, request: Request) -> Message:
        """Make the message of a remote step's request, whose callbacks bring the reply."""
        made, saga_id, name = request.message, execution.saga_id, execution.steps[ref.path].name
        mark = {"saga_id": saga_id, "ref": str(ref), "token": request.token}
        before = StepRef(ref.path, ref.direction, ref.epoch - 1)
        shown = {"saga": execution.name, "saga_id": saga_id, "step": name}
        options: dict[str, Any] = {
            **made["options"],
            "task_id": ref.request_id(saga_id),
            "root_id": execution.root,
            "parent_id": before.task_id(saga_id),
            "add_to_parent": False,
            "serializer": "json",
            "retries": 0,
            "argsrepr": f"({', '.join(f'<{len(text)} bytes>' for text in made['args'])})",
            "kwargsrepr": repr(shown),
            "headers": {**as_sent(execution.headers), REQUEST: mark},
            "link": [reply_signature(self._app, mark, shown)],
            "link_error": [reply_signature(self._app, mark, shown, failed=True)],
        }
        return {
            "saga_id": saga_id,
            "step": name,
            "task": made["task"],
            "args": made["args"],
            "kwargs": made["kwargs"],
            "options": options,
            "template": f"request {made['task']} {sorted(made['options'].items())}",
        }

    def _context(self, saga_id: str, values: Values) -> str:
        """Return the whole context, or above the limit a reference to the checkpoint.

        This is Hohpe and Woolf's claim check.
        """
        if values.size > self._inline_limit:
            return JSON.dumps({"saga_context": saga_id})
        return values.json()

    def _kwargsrepr(
        self, execution: SagaExecution, ref: StepRef, call: Call, kwargs: Mapping[str, str]
    ) -> str:
        """Return a short dict literal. It must stay a dict, because Flower indexes it by key.

        The first keys identify the saga for operators; parameters do not replace them.
        """
        shown: dict[str, Any] = {
            "saga": execution.name,
            "saga_id": execution.saga_id,
            "step": execution.steps[ref.path].name,
        }
        if ref.direction is Direction.COMPENSATION:
            shown["compensation"] = True
        size, words, origins = 0, self._mask_keys, call.origins
        for key in [key for key in kwargs if key not in shown]:
            text = kwargs[key]
            try:
                shown[key] = MASK if is_sensitive(origins[key], words) else _shown(text)
            except (ValueError, IndexError) as error:
                where = f"context[{origins[key]!r}]"
                raise UnreadableCheckpoint(execution.saga_id, where, str(error)) from error
            size += len(str(shown[key]))
            if size > ARGUMENTS_REPR:
                break
        return repr(shown)

    @cached_property
    def _inline_limit(self) -> int:
        return Settings.of(self._app).context_inline_limit

    @cached_property
    def _store_results(self) -> bool:
        return Settings.of(self._app).store_step_results

    @cached_property
    def _mask_keys(self) -> frozenset[str]:
        keys = Settings.of(self._app).mask_keys
        return DEFAULT_MASK_KEYS if keys is None else words_of(keys)


def reply_signature(
    app: Celery, mark: Mapping[str, str], shown: Mapping[str, str], *, failed: bool = False
) -> dict[str, Any]:
    """The callback by which a worker of another service replies; it needs no plugin for that."""
    options = {
        "queue": queue_of(app, Call(REPLY)) or app.conf.task_default_queue,
        "serializer": "json",
        "ignore_result": True,
        "argsrepr": "(<reply>,)",
        "kwargsrepr": repr(shown),
    }
    return dict(app.signature(REPLY, kwargs={**mark, "failed": failed}, options=options))


def header_of(carrier: Any) -> Mapping[str, str] | None:
    """Return the engine's header of a step's message; ``carrier`` has the message's headers."""
    headers = getattr(carrier, "headers", None)
    if not headers or not isinstance(headers, Mapping):
        return None
    found = headers.get(HEADER)
    return found if isinstance(found, dict) else None


def request_header_of(carrier: Any) -> Mapping[str, str] | None:
    """Return the header of a remote step's request: ``saga_id``, ``ref`` and ``token``."""
    headers = getattr(carrier, "headers", None)
    found = headers.get(REQUEST) if isinstance(headers, Mapping) else None
    names = {"saga_id", "ref", "token"}
    return found if isinstance(found, dict) and found.keys() == names else None


def _headers(execution: SagaExecution, path: Path) -> dict[str, Any]:
    """The headers of a step's message beside those of Celery and the engine."""
    revised = (execution.steps[path].revised or {}).get("headers")
    if revised is None and execution.headers is None:
        return {}
    return {**as_sent(execution.headers), **as_sent(revised)}


def mark_of(execution: SagaExecution) -> dict[str, str]:
    """Return the engine's header of a message; the task's id has saga, step, direction, epoch."""
    plan = execution.plan.hash
    return {"plan": plan, "run_id": execution.run_id} if execution.run_id else {"plan": plan}


def _shown(text: str) -> Any:
    """Return a value for display: itself if it is short and plain, else its size."""
    kind = text[0]
    if kind in "{[":
        if len(text) <= VALUE_REPR and text.startswith('{"__type__"'):
            return str(JSON.loads(text))  # a date and the like
        return f"<{'dict' if kind == '{' else 'list'}, {len(text)} bytes>"
    if len(text) > VALUE_REPR:
        return text[1:VALUE_REPR] + "..."
    return json.loads(text)


def _parent_id(execution: SagaExecution, ref: StepRef) -> str | None:
    """The id of the task before: the previous step's, or that of a compensation or commit."""
    path: Path | None = ref.path
    if ref.direction is Direction.FORWARD:
        path = execution.plan.committed(ref.path) or _before(execution.plan, ref.path)
    if path is None:
        return execution.parent_id or None
    step = execution.steps[path]
    epoch = step.forward_epoch or step.epoch
    return StepRef(path, Direction.FORWARD, epoch).task_id(execution.saga_id)


def _before(plan: Plan, path: Path) -> Path | None:
    """The step that has ended before one begins; ``None``: there is none, or there are several."""
    while path:
        parent, place = path[:-1], path[-1]
        node = plan.at(parent)
        if isinstance(node, Choice):
            return parent
        if isinstance(node, NestedSaga) and place > 0:
            before = (*parent, place - 1)
            return before if isinstance(plan.at(before), PlanStep) else None
        path = parent
    return None
