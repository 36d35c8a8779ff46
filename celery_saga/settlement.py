"""The Celery result of a saga as the Redis commands that store it, for the last save's script.

Where a store is on the result backend's database, both are one write: the saga is settled and has
its result, or neither. What the backend would send to its server is found out by letting it store
a stand-in for the context over a client that only takes notes. The context itself need not be at
hand: the script puts it together from the checkpoint.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, states
from celery.backends.redis import RedisBackend

from celery_saga.announce import request_of
from celery_saga.execution import SagaExecution, SagaStatus
from celery_saga.partial import NotLoaded
from celery_saga.result import failure_of
from celery_saga.stores import Outbox, Result, Store
from celery_saga.stores.redis import RedisStore

log = logging.getLogger("celery_saga")

#: What tells one database from another.
_PLACE = ("host", "port", "path", "db")


class _Notes:
    """Stands in for a Redis client: nothing is there, and what is written is noted."""

    def __init__(self) -> None:
        self.commands: list[tuple[Any, ...]] = []

    def get(self, key: Any) -> None:
        return None

    @contextmanager
    def pipeline(self, **options: Any) -> Iterator[_Notes]:
        yield self

    def execute(self) -> None: ...

    def __getattr__(self, command: str) -> Any:
        return lambda *args: self.commands.append((command, *args))


class Settlement:
    """Makes the results of one app's sagas.

    Args:
        app: the Celery app.
        store: that keeps its sagas.
    """

    def __init__(self, app: Celery, store: Store) -> None:
        self._app, self._store = app, store

    def outbox(self, execution: SagaExecution) -> Outbox | None:
        """What stores the result of a saga that is about to settle; ``None``: the backend has to.

        Raises:
            NotLoaded: more of the execution has to be known.
        """
        try:
            if not self._one_place():
                return None
            return Outbox(0, (), self._result(execution))
        except NotLoaded:
            raise
        except Exception:
            # Storing it will meet the same trouble, and deal with it.
            log.debug("a result could not be made beforehand", exc_info=True)
            return None

    def _one_place(self) -> bool:
        backend: Any = self._app.backend
        if not isinstance(backend, RedisBackend) or not isinstance(self._store, RedisStore):
            return False
        one, other = (
            client.connection_pool.connection_kwargs
            for client in (backend.client, self._store.client)
        )
        return all(one.get(name) == other.get(name) for name in _PLACE)

    def _result(self, execution: SagaExecution) -> Result | None:
        context = f"context-{uuid.uuid4().hex}"
        backend: Any = self._app.backend
        stand_in = object.__new__(type(backend))
        vars(stand_in).update(vars(backend))
        vars(stand_in)["client"] = notes = _Notes()
        completed = execution.status is SagaStatus.COMPLETED
        result: Any = context if completed else failure_of(execution)
        state = states.SUCCESS if completed else states.FAILURE
        stand_in.store_result(execution.saga_id, result, state, request=request_of(execution))
        return _result_of(notes, json.dumps(context) if completed else None)


def _result_of(notes: _Notes, context: str | None) -> Result | None:
    """The notes with what was written apart; ``None`` if they are not as they should be."""
    texts = {args[-1] for _, *args in notes.commands}
    if len(texts) != 1:
        return None
    text = texts.pop()
    text = text.decode() if isinstance(text, bytes) else text
    before, *after = text.split(context) if context else (text,)
    if len(after) != (context is not None):
        return None
    commands = [tuple(map(_plain, command[:-1])) for command in notes.commands]
    return Result(commands, before, after[0] if after else None)


def _plain(part: Any) -> str:
    return part.decode() if isinstance(part, bytes) else str(part)
