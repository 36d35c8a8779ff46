"""Gathers the facts about the store and the sagas in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import redis

from celery_saga.core.execution import SETTLED, SagaExecution, SagaStatus
from celery_saga.core.ports import Store
from celery_saga.errors import (
    SetupError,
    StoreError,
    UnreadableCheckpoint,
    UnsupportedCheckpoint,
)
from celery_saga.messaging.broker import label_of
from celery_saga.ops.doctor.collect.bounded import NoAnswer, within
from celery_saga.ops.doctor.collect.servers import gather_server, shown
from celery_saga.ops.doctor.facts import Offset, Sagas, Server, StoreFacts
from celery_saga.runtime import Runtime
from celery_saga.settings import Settings

#: Seconds that the store has for all its replies.
ANSWER_TIMEOUT = 15.0


@dataclass(frozen=True)
class Stored:
    """The store, its server if it has one, the sagas, and the live ones of them."""

    facts: StoreFacts
    server: Server | None = None
    sagas: Sagas = field(default_factory=Sagas)
    live: tuple[SagaExecution, ...] = ()


def gather_store(runtime: Runtime, limit: int) -> Stored:
    """Gather what the store reports; ``limit``: live sagas that are read."""
    facts = StoreFacts(url=_url(runtime))
    return _asked(facts, lambda: _gather(runtime.store, facts, limit, label_of(runtime.app)))


def _asked(facts: StoreFacts, ask: Callable[[], Stored]) -> Stored:
    try:
        return within(ANSWER_TIMEOUT, ask)
    except SetupError as error:
        return Stored(replace(facts, problem=str(error)))
    except (StoreError, NoAnswer) as error:
        return Stored(replace(facts, kind="redis" if facts.url else "other", problem=str(error)))
    except Exception as error:  # a store of the user's, or a driver that was not expected to
        problem = f"{type(error).__name__}: {error}"
        return Stored(replace(facts, kind="other", problem=problem))


def _url(runtime: Runtime) -> str:
    conf = runtime.app.conf
    settings, _ = Settings.read(conf)  # wrong ones are a finding of their own
    if runtime.storage is not None and not isinstance(runtime.storage, str):
        return ""
    return shown(runtime.storage or settings.store_url or conf.result_backend)


def _gather(store: Store, facts: StoreFacts, limit: int, app: str) -> Stored:
    asked = time.time()
    clock = Offset.measured(store.now(), asked, time.time())
    others = store.register_app("") - {app}
    facts = replace(facts, kind=_kind(store), clock=clock, alive=store.alive(), others=others)
    server, client = None, getattr(store, "client", None)
    if facts.kind == "redis" and client is not None:
        try:
            server = gather_server(client, facts.url, "store")
        except redis.RedisError as error:
            raise StoreError(f"the saga store failed: {error}") from error
    reader = _Reader(store)
    live, more = _live(reader, limit)
    stuck, overdue = store.count(SagaStatus.STUCK), _overdue(reader, limit)
    sagas = Sagas(len(live), more, stuck, overdue, reader.newer, reader.damaged)
    return Stored(facts, server, sagas, live)


def _kind(store: Store) -> str:
    if store.endpoint.startswith("redis:"):
        return "redis"
    return "other" if store.shared else "memory"


class _Reader:
    """Loads sagas, and records those that cannot be read."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.newer: dict[str, str] = {}
        self.damaged: dict[str, str] = {}

    def load(self, saga_id: str) -> SagaExecution | None:
        try:
            return self.store.load(saga_id)
        except UnsupportedCheckpoint as error:
            self.newer[saga_id] = str(error)
        except UnreadableCheckpoint as error:
            self.damaged[saga_id] = str(error)
        return None


def _live(reader: _Reader, limit: int) -> tuple[tuple[SagaExecution, ...], bool]:
    """Live sagas, at most ``limit``, and whether there are more."""
    found: list[SagaExecution] = []
    for status in SagaStatus:
        if status in SETTLED:
            continue
        for _, saga_id in reader.store.find(status, limit + 1 - len(found)):
            if len(found) >= limit:
                return tuple(found), True
            execution = reader.load(saga_id)
            if execution is not None and not execution.settled:  # it may have ended meanwhile
                found.append(execution)
    return tuple(found), False


def _overdue(reader: _Reader, limit: int) -> dict[str, float]:
    late: dict[str, float] = {}
    for saga_id in reader.store.due(limit):
        execution = reader.load(saga_id)
        if execution is not None and execution.due_at is not None:
            late[saga_id] = reader.store.now() - execution.due_at
    return late
