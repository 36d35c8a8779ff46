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
from celery_saga.errors import UnreadableCheckpoint
from celery_saga.messaging.headers import HEADER, as_sent
from celery_saga.settings import Settings

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
        call = call_of(execution, ref.path, ref.direction)
        name = execution.steps[ref.path].name
        values = execution.view(ref.path)
        kwargs = call.texts(execution.inputs_of(ref.path, ref.direction))
        args = [self._context(execution.saga_id, values)] if call.style == "context" else []
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


def header_of(carrier: Any) -> Mapping[str, str] | None:
    """Return the engine's header of a step's message; ``carrier`` has the message's headers."""
    headers = getattr(carrier, "headers", None)
    if not headers or not isinstance(headers, Mapping):
        return None
    found = headers.get(HEADER)
    return found if isinstance(found, dict) else None


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
