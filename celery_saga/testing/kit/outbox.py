"""The messages that Celery sends during a test: kept here, not sent to a broker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kombu import Connection, Producer
from kombu.serialization import dumps, loads

#: The broker of all of them: nothing is ever sent over this connection.
_URL = "memory://"


@dataclass(frozen=True)
class SentTask:
    """A task's message, as a worker would receive it.

    Args:
        name: of the task.
        id: of the task.
        args, kwargs: its arguments, after their way through the serializer.
        headers: the message's headers, those of Celery's protocol among them.
        embed: what Celery keeps beside the arguments: callbacks, errbacks, chain and chord.
        delivery_info: exchange, routing key and priority.
    """

    name: str
    id: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    headers: Mapping[str, Any]
    embed: Mapping[str, Any]
    delivery_info: Mapping[str, Any]

    def __repr__(self) -> str:
        shown = [*map(repr, self.args), *(f"{key}={it!r}" for key, it in self.kwargs.items())]
        return f"{self.name}({', '.join(shown)})"


class Outbox:
    """Takes the place of an app's pool of producers, and keeps what is published.

    Args:
        taken: is called with each task's message.
    """

    def __init__(self, taken: Any) -> None:
        self.connections = _Connections()
        self._producer = _Producer(self.connections.connection, taken)

    def acquire(self, *args: Any, **options: Any) -> Any:
        """Return the producer, as a context; arguments are those of kombu's pools."""
        return _Lent(self._producer)


class _Connections:
    """What Celery looks at to find out which broker it has."""

    def __init__(self) -> None:
        self.connection = Connection(_URL)


class _Lent:
    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def __enter__(self) -> Producer:
        return self._producer

    def __exit__(self, *error: object) -> None:
        pass


class _Producer(Producer):
    def __init__(self, connection: Any, taken: Any) -> None:
        super().__init__(connection, auto_declare=False)
        self._taken = taken

    def publish(self, body: Any, *args: Any, **options: Any) -> None:
        """Keep a task's message; an event of monitors is dropped."""
        headers = options.get("headers") or {}
        if "task" not in headers or "id" not in headers:
            return
        kind, encoding, data = dumps(body, serializer=options.get("serializer"))
        found, kwargs, embed = loads(data, kind, encoding, accept={kind})
        names = ("exchange", "routing_key", "priority")
        delivery_info = {name: options.get(name) for name in names} | {"redelivered": False}
        self._taken(
            SentTask(
                headers["task"],
                headers["id"],
                tuple(found),
                kwargs,
                dict(headers),
                embed or {},
                delivery_info,
            )
        )
