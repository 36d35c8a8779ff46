"""The Celery result of a saga as the Redis commands that store it, for the last save's script.

Where a store is on the result backend's database, both are one write: the saga is settled and has
its result, or neither. What the backend would send to its server is found out by letting it store
a stand-in for the context over a client that only takes notes. The context itself need not be at
hand: the script puts it together from the checkpoint. On a server apart, what was noted is sent
there, which takes a third of the time that the backend takes.

The results of a saga's completed runs differ in their ids and times. If two that the backend made
for the purpose do not differ in anything else, later ones are made by filling in these two.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Celery, states
from celery.backends.base import Backend, KeyValueStoreBackend
from celery.backends.redis import RedisBackend

from celery_saga.core.context.data import values_of
from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.execution import SagaExecution, SagaStatus, evolved
from celery_saga.core.ports import Outbox, Result, Store
from celery_saga.messaging.outcome import failure_of
from celery_saga.messaging.redis.message_cache import is_own
from celery_saga.messaging.results import request_of
from celery_saga.stores.redis import RedisStore
from celery_saga.stores.redis.client import Wire
from celery_saga.stores.redis.pool import same_database

log = logging.getLogger("celery_saga")

#: Seconds for which what was found out about a backend is believed, and sagas it is kept for.
TRUST, KNOWN = 60.0, 512

#: Stand for the id and the time of a result; neither can be part of a real one.
_ID, _WHEN = "<id>", "<when>"


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
        self._forms: dict[str, tuple[float, Result | None]] = {}
        self._wire = Wire(lambda: self._app.backend.client)  # type: ignore[attr-defined]

    def outbox(self, execution: SagaExecution) -> Outbox | None:
        """What stores the result of a saga that is about to settle; ``None``: the backend has to.

        Raises:
            NotLoaded: more of the execution has to be known.
        """
        try:
            result = self._result(execution) if self._one_place() else None
            return None if result is None else Outbox(0, (), result)
        except NotLoaded:
            raise
        except Exception:
            # Storing it will meet the same trouble, and deal with it.
            log.debug("a result could not be made beforehand", exc_info=True)
            return None

    def store(self, execution: SagaExecution) -> bool:
        """Store a result by itself, as the backend would; ``False``: the backend has to.

        Raises:
            redis.exceptions.RedisError: the backend's server is away.
        """
        backend: Any = self._app.backend
        completed = execution.status is SagaStatus.COMPLETED
        if execution.origin is not None or not completed or type(backend) is not RedisBackend:
            return False
        form = self._form(execution)
        if form is None:
            return False
        result = self._filled(form, execution)
        text = f"{result.before}{values_of(execution.values).json()}{result.after}"
        for command in result.commands:
            self._wire.call(*command, text)
        return True

    def _one_place(self) -> bool:
        backend: Any = self._app.backend
        if not isinstance(backend, RedisBackend) or not isinstance(self._store, RedisStore):
            return False
        return same_database(backend.client.connection_pool, self._store.client.connection_pool)

    def _result(self, execution: SagaExecution) -> Result | None:
        form = self._form(execution) if execution.status is SagaStatus.COMPLETED else None
        return self._made(execution) if form is None else self._filled(form, execution)

    def _filled(self, form: Result, execution: SagaExecution) -> Result:
        return _replaced(form, {_ID: execution.saga_id, _WHEN: self._app.now().isoformat()})

    def _form(self, execution: SagaExecution) -> Result | None:
        at, form = self._forms.get(execution.name, (0.0, None))
        if not at or time.monotonic() - at > TRUST:
            if len(self._forms) >= KNOWN:
                self._forms.clear()
            form = self._learnt(execution)
            self._forms[execution.name] = time.monotonic(), form
        return form

    def _learnt(self, execution: SagaExecution) -> Result | None:
        """What all results of completed runs have in common, if they have all but id and time."""
        backend: Any = type(self._app.backend)
        if not (
            is_own(backend.store_result, Backend)
            and is_own(backend._store_result, KeyValueStoreBackend)
            and is_own(backend._get_result_meta, Backend)
            and is_own(backend._set, RedisBackend)
        ):
            return None
        one, other = (
            _with_holes(self._made(evolved(execution, saga_id=name)), name)
            for name in (uuid.uuid4().hex, uuid.uuid4().hex)
        )
        return one if one == other else None

    def _made(self, execution: SagaExecution) -> Result | None:
        """The result as the backend makes it."""
        context = f"context-{uuid.uuid4().hex}"
        backend: Any = self._app.backend
        stand_in = object.__new__(type(backend))
        vars(stand_in).update(vars(backend))
        vars(stand_in)["client"] = notes = _Notes()
        completed = execution.status is SagaStatus.COMPLETED
        if completed and self._app.conf.result_serializer not in ("json", "application/json"):
            return None  # another JSON may write its dates in another way than the checkpoint has
        result: Any = context if completed else failure_of(execution)
        state = states.SUCCESS if completed else states.FAILURE
        stand_in.store_result(execution.saga_id, result, state, request=request_of(execution))
        return _result_of(notes, json.dumps(context) if completed else None)


def _result_of(notes: _Notes, context: str | None) -> Result | None:
    """The notes with what was written apart; ``None`` if they are not as they should be."""
    texts = {args[-1] for _, *args in notes.commands}
    if len(texts) != 1:
        return None
    try:
        text = _plain(texts.pop())
    except UnicodeDecodeError:  # compressed, for one
        return None
    before, *after = text.split(context) if context else (text,)
    if len(after) != (context is not None):
        return None
    commands = [tuple(map(_plain, command[:-1])) for command in notes.commands]
    return Result(commands, before, after[0] if after else None)


def _with_holes(made: Result | None, saga_id: str) -> Result | None:
    if made is None or made.after is None:
        return None
    try:
        when = json.loads(f"{made.before}null{made.after}")["date_done"]
    except (ValueError, KeyError):  # no JSON, for one
        return None
    return _replaced(made, {saga_id: _ID, when: _WHEN})


def _replaced(result: Result, pairs: Mapping[str, str]) -> Result:
    def new(text: str) -> str:
        for old, instead in pairs.items():
            text = text.replace(old, instead)
        return text

    after = None if result.after is None else new(result.after)
    return Result([tuple(map(new, each)) for each in result.commands], new(result.before), after)


def _plain(part: Any) -> str:
    return part.decode() if isinstance(part, bytes) else str(part)
