"""Caches the encoded form of messages, and fills in what differs from step to step.

Celery and kombu take longer to make a message than a saga takes for the rest of a step, and make
nearly the same message each time. They make the first two messages of a task. If these are equal
except for the fields that a step is known to set, later ones are made by filling in these fields.
If any code may change a single message (a receiver of a publish signal, a route that is a function,
a method that was overridden or patched, stamps), Celery makes all messages.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any

from celery import Celery, Task, signals
from celery.app.amqp import AMQP
from celery.app.task import Task as BaseTask
from kombu import Producer
from kombu.utils import json as kombu_json

from celery_saga.messaging.broker import routes_by_name
from celery_saga.messaging.headers import HEADER, STAMPS
from celery_saga.stores.redis.payload import Push

#: The fields in which the messages of one task differ: section and name.
_PLACES = (
    ("headers", "id"),
    ("headers", "root_id"),
    ("headers", "parent_id"),
    ("headers", "retries"),
    ("headers", "kwargsrepr"),
    ("headers", "saga"),
    ("properties", "correlation_id"),
    ("properties", "reply_to"),
    ("properties", "delivery_tag"),
)

#: Receivers of these signals may change a message, or count all of them.
_SIGNALS = (signals.before_task_publish, signals.after_task_publish, signals.task_sent)

_dumps = json.JSONEncoder(separators=(",", ":")).encode


def _marked(headers: Mapping[str, Any]) -> str:
    """The value of the engine's header, followed by those that all messages of the saga have."""
    mark = _header(**headers[HEADER])
    if len(headers) == 1:
        return mark
    more = {name: value for name, value in headers.items() if name != HEADER}
    return f"{mark},{kombu_json.dumps(more)[1:-1]}"


@lru_cache(maxsize=1024)
def _header(**found: str) -> str:
    return _dumps(found)


_EMPTY_EMBED = '{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'


def by_celery_alone(app: Celery, task: Task[Any, Any]) -> bool:
    """Whether only Celery's and kombu's own code makes the messages of ``task``, all alike."""
    cls: Any = type(task)
    amqp: Any = app.amqp
    codes = (
        (cls.apply_async, BaseTask),
        (cls.shadow_name, BaseTask),
        (cls._get_exec_options, BaseTask),
        (type(app).send_task, Celery),
        (type(amqp).as_task_v2, AMQP),
        (type(amqp)._create_task_sender, AMQP),
        (Producer.publish, Producer),
        (Producer._publish, Producer),
    )
    return (
        all(is_own(method, owner) for method, owner in codes)
        and not {"apply_async", "shadow_name"} & vars(task).keys()
        and "send_task" not in vars(app)
        and routes_by_name(app)
        and app.conf.task_protocol == 2
        and not app.conf.task_send_sent_event
    )


def is_own(method: Any, owner: type[Any]) -> bool:
    """Whether a method is its library's own, and not replaced by a tool that traces messages."""
    written = type(method) is FunctionType and method.__code__.co_filename
    return bool(written) and written == sys.modules[owner.__module__].__file__


class MessageCache:
    """The cached messages of one process.

    Args:
        app: the Celery app that makes the messages.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._seen: dict[str, dict[str, Any] | None] = {}
        self._ready: dict[str, _CachedMessage] = {}

    def clear(self) -> None:
        """Clear the cache."""
        self._seen, self._ready = {}, {}

    def filled(self, request: Mapping[str, Any]) -> Sequence[Push] | None:
        """Return the commands that send ``request``; ``None``: Celery has to make the message."""
        if not STAMPS.isdisjoint(request["options"]["headers"]):
            return None  # Celery's own headers, which a cached message has with fixed values
        template = self._ready.get(request["template"])
        if template is None or any([signal.receivers for signal in _SIGNALS]):
            return None
        if template.check is not None:
            # As Celery does, refuse arguments that the task's signature does not accept.
            template.check(*request["args"], **request["kwargs"])
        return [(template.command, template.key, template.text(request, self._app))]

    def add(self, request: Mapping[str, Any], pushes: Sequence[Push]) -> None:
        """Compare the message that Celery made for ``request``, and cache the second equal one."""
        name = request["template"]
        if not STAMPS.isdisjoint(request["options"]["headers"]):
            return
        if name in self._ready or (name in self._seen and self._seen[name] is None):
            return
        task = self._app.tasks.get(request["task"])
        frame = None
        if task is not None and by_celery_alone(self._app, task):
            frame = _frame(request, pushes)
        before = self._seen.get(name)
        self._seen[name] = frame
        if frame is not None and before is not None:
            if frame == before:
                self._ready[name] = _CachedMessage(task, frame)
            else:
                self._seen[name] = None


def _frame(request: Mapping[str, Any], pushes: Sequence[Push]) -> dict[str, Any] | None:
    """The fields of a message that are equal for all steps; ``None`` if it has another form."""
    if len(pushes) != 1:
        return None
    command, key, text = pushes[0]
    try:
        message = json.loads(text)
        body = json.loads(base64.b64decode(message["body"]))
    except ValueError:  # compressed, for example
        return None
    expected = [
        [json.loads(arg) for arg in request["args"]],
        {name: json.loads(arg) for name, arg in request["kwargs"].items()},
        json.loads(_EMPTY_EMBED),
    ]
    options = request["options"]
    set_by_step = {
        ("headers", "id"): options["task_id"],
        ("headers", "root_id"): options["root_id"],
        ("headers", "parent_id"): options["parent_id"],
        ("headers", "retries"): options["retries"],
        ("headers", "kwargsrepr"): options["kwargsrepr"],
        **{("headers", name): value for name, value in options["headers"].items()},
        ("properties", "correlation_id"): options["task_id"],
    }
    if body != expected or any(
        message[part].pop(name, None) != it for (part, name), it in set_by_step.items()
    ):
        return None
    for part, name in _PLACES:
        message[part].pop(name, None)
    del message["body"]
    return {"command": command, "key": key, "message": message}


class _CachedMessage:
    """The message of one task, with placeholders.

    Args:
        task: the task.
        frame: the fields that are equal in all its messages.
    """

    def __init__(self, task: Any, frame: Mapping[str, Any]) -> None:
        self.command, self.key = frame["command"], frame["key"]
        self.check = getattr(task, "__header__", None) if task.typing else None
        message = json.loads(json.dumps(frame["message"]))
        mark = uuid.uuid4().hex
        placeholders = {f"{mark}{number}": place for number, place in enumerate(_PLACES)}
        for placeholder, (part, name) in placeholders.items():
            message[part][name] = placeholder
        text = _dumps({"body": f"{mark}body", **message})
        # Split at the placeholders with their quotes: every second piece is a field's name.
        pieces = text.split(f'"{mark}')
        self._pieces = [pieces[0]]
        for piece in pieces[1:]:
            placeholder, _, rest = piece.partition('"')
            self._pieces += [
                "body" if placeholder == "body" else _PLACES[int(placeholder)][1],
                rest,
            ]
        self._names = self._pieces[1::2]

    def text(self, request: Mapping[str, Any], app: Celery) -> str:
        """Return the message of ``request`` as kombu's Redis transport would push it."""
        options = request["options"]
        kwargs = ",".join([f'"{name}":{text}' for name, text in request["kwargs"].items()])
        body = f"[[{','.join(request['args'])}],{{{kwargs}}},{_EMPTY_EMBED}]"
        parent = options["parent_id"]
        task_id = f'"{options["task_id"]}"'
        known = {
            "body": f'"{base64.b64encode(body.encode()).decode()}"',
            "id": task_id,
            "root_id": f'"{options["root_id"]}"',
            "parent_id": f'"{parent}"' if parent else "null",
            "retries": str(options["retries"]),
            "kwargsrepr": json.dumps(options["kwargsrepr"]),
            "saga": _marked(options["headers"]),
            "correlation_id": task_id,
            "reply_to": f'"{app.thread_oid}"',
            "delivery_tag": f'"{os.urandom(16).hex()}"',
        }
        pieces = self._pieces.copy()
        pieces[1::2] = [known[name] for name in self._names]
        return "".join(pieces)
