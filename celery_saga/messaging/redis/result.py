"""Encodes the Celery result of a saga as Redis commands, for the script of the last checkpoint.

Where a store is on the result backend's database, one write settles the saga and stores its result.
The commands are found by having the backend store the result over a client that only records them.
So the backend's settings apply: keys, expiry, encoding. The context is not required for that: a
placeholder takes its place, and the script makes the context from the checkpoint.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, states
from celery.backends.redis import RedisBackend, SentinelBackend

from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.execution import SagaExecution, SagaStatus
from celery_saga.core.ports import Envelope, Store
from celery_saga.messaging.outcome import failure_of, request_of
from celery_saga.stores.redis.payload import Result
from celery_saga.stores.redis.pool import endpoint_of

log = logging.getLogger("celery_saga")

#: Celery's own backends that store a result on a Redis server; a subclass may do more.
_OWN = (RedisBackend, SentinelBackend)


class _RecordedCommands:
    """Replaces a Redis client: it has no keys, and records the commands that write."""

    def __init__(self) -> None:
        self.commands: list[tuple[Any, ...]] = []

    def get(self, key: Any) -> None:
        return None

    @contextmanager
    def pipeline(self, **options: Any) -> Iterator[_RecordedCommands]:
        yield self

    def execute(self) -> None: ...

    def __getattr__(self, command: str) -> Any:
        return lambda *args: self.commands.append((command, *args))


class RedisResults:
    """Encodes the results of one app's sagas for a store on the result backend's database.

    Args:
        app: the Celery app.
        store: that keeps its sagas.
    """

    def __init__(self, app: Celery, store: Store) -> None:
        self._app, self._store = app, store

    def encode(self, execution: SagaExecution) -> Envelope | None:
        """Return the commands that store the result of a saga at its end; ``None``: not possible.

        Raises:
            NotLoaded: more of the execution must be loaded.
        """
        backend: Any = self._app.backend
        if type(backend) not in _OWN:
            return None
        try:
            endpoint = endpoint_of(backend.client.connection_pool)
            if endpoint != self._store.endpoint:
                return None
            result = self._made(backend, execution)
            return None if result is None else Envelope(endpoint, result)
        except NotLoaded:
            raise
        except Exception:
            # publish() will meet the same error, and handle it.
            log.debug("a result could not be made beforehand", exc_info=True)
            return None

    def _made(self, backend: Any, execution: SagaExecution) -> Result | None:
        """The result as the backend makes it; a placeholder for the context of a completed saga."""
        completed = execution.status is SagaStatus.COMPLETED
        if completed and self._app.conf.result_serializer not in ("json", "application/json"):
            return None  # another JSON encoder may write dates differently from the checkpoint
        context = f"context-{uuid.uuid4().hex}"
        recording = object.__new__(type(backend))
        vars(recording).update(vars(backend))
        vars(recording)["client"] = notes = _RecordedCommands()
        result: Any = context if completed else failure_of(execution)
        state = states.SUCCESS if completed else states.FAILURE
        recording.store_result(execution.saga_id, result, state, request=request_of(execution))
        return _result_of(notes, json.dumps(context) if completed else None)


def _result_of(notes: _RecordedCommands, context: str | None) -> Result | None:
    """The recorded commands, split around the context; ``None`` if they have another form."""
    texts = {args[-1] for _, *args in notes.commands}
    if len(texts) != 1:
        return None
    try:
        text = _plain(texts.pop())
    except UnicodeDecodeError:  # compressed, for example
        return None
    before, *after = text.split(context) if context else (text,)
    if len(after) != (context is not None):
        return None
    commands = [tuple(map(_plain, command[:-1])) for command in notes.commands]
    return Result(commands, before, after[0] if after else None)


def _plain(part: Any) -> str:
    return part.decode() if isinstance(part, bytes) else str(part)
