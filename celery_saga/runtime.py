"""What one app's sagas need in one process: store, dispatcher, orchestrator, and who we are."""

from __future__ import annotations

import itertools
import os
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import redis
from celery import Celery
from celery.backends.redis import RedisBackend

from celery_saga.decide.events import Event
from celery_saga.definition import SagaDefinition
from celery_saga.dispatch import CeleryDispatcher
from celery_saga.errors import SetupError
from celery_saga.execution import Slot
from celery_saga.orchestrator import Orchestrator
from celery_saga.outbox import RedisOutbox
from celery_saga.plan import Plan
from celery_saga.planner import build_plan
from celery_saga.stores import Store
from celery_saga.stores.memory import MemoryStore
from celery_saga.stores.redis import RedisStore

_ATTRIBUTE = "_celery_saga_runtime"

_NO_STORE = (
    "no store for sagas: the result backend {backend} cannot compare and swap. Set saga_store_url "
    "to a Redis server, for example app.conf.saga_store_url = 'redis://localhost/1'; the result "
    "backend may stay as it is"
)


#: Makes an event once the store's time is known.
News = Callable[[float], Event]


class Heartbeat(Protocol):
    """What a running worker's heart offers the rest of its process."""

    def post(self, saga_id: str, news: News) -> None:
        """Hand over news of a step."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


class Runtime:
    """The engine of one app in this process.

    Args:
        app: the Celery app; its configuration is first read when something is needed.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        #: This boot of this process. A worker draws a new one before it makes its pool, and the
        #: pool's processes inherit it.
        self.instance = f"client-{uuid.uuid4().hex[:12]}"
        self._memory = MemoryStore()
        self._count = itertools.count(1)
        self._pid = 0
        self._orchestrator: Orchestrator | None = None
        self._plans: WeakKeyDictionary[SagaDefinition, dict[Any, Plan]] = WeakKeyDictionary()
        #: Eager sagas that this process has not seen to their ends yet.
        self.unfinished: deque[str] = deque()
        #: The heart of the worker that runs in this process, if one does.
        self.heart: Heartbeat | None = None

    def boot(self) -> str:
        """Draw a new instance id: a worker is starting."""
        self.instance = uuid.uuid4().hex[:16]
        return self.instance

    @property
    def orchestrator(self) -> Orchestrator:
        """The orchestrator of this process; a forked child makes its own."""
        if self._orchestrator is None or self._pid != os.getpid():
            self._orchestrator = self.new_orchestrator()
            self._pid = os.getpid()
        return self._orchestrator

    @property
    def store(self) -> Store:
        """The store of this process."""
        return self.orchestrator.store

    def new_orchestrator(self) -> Orchestrator:
        """An orchestrator with a store connection of its own."""
        patience = float(self.app.conf.saga_commit_patience)
        store = self._new_store()
        outbox = RedisOutbox(self.app, store) if isinstance(store, RedisStore) else None
        return Orchestrator(store, CeleryDispatcher(self.app, outbox), patience)

    def _new_store(self) -> Store:
        """
        Raises:
            SetupError: the app has no store that can compare and swap.
        """
        conf = self.app.conf
        url, prefix = conf.saga_store_url, conf.saga_key_prefix
        options: dict[str, Any] = {"prefix": prefix, "expires": self._expires()}
        if url is None:
            if not isinstance(self.app.backend, RedisBackend):
                raise SetupError(_NO_STORE.format(backend=type(self.app.backend).__name__))
            options["prefix"] = _backend_prefix(self.app) + prefix
            return RedisStore(lambda: self.app.backend.client, **options)  # type: ignore[attr-defined]
        if url == "memory://":
            return self._memory
        if url.startswith(("redis://", "rediss://", "redis+socket://", "unix://")):
            return RedisStore(redis.Redis.from_url(_driver_url(url)), **options)
        raise SetupError(
            f"saga_store_url: expected a redis://, rediss:// or redis+socket:// URL, found "
            f"{url.partition('://')[0]}://..."
        )

    def _expires(self) -> float | None:
        expires = self.app.conf.saga_result_expires
        if expires is None:
            expires = self.app.conf.result_expires
        if expires is None:
            return None
        return float(getattr(expires, "total_seconds", lambda: expires)())

    def token(self, slot: Slot) -> str:
        """A new owner token: instance, process, counter, and the slot of the message behind it."""
        return f"{self.instance}:{os.getpid()}:{next(self._count)}:{slot}"

    def plan(self, definition: SagaDefinition, **options: Any) -> Plan:
        """The plan of a definition on this app; made once, as a committed saga cannot change.

        Args:
            options: message options of this run, for all steps that have none of their own.
        """
        plans = self._plans.setdefault(definition, {})
        key = tuple(sorted(options.items()))
        if () not in plans:
            plans[()] = build_plan(definition, self.app)
        if key not in plans:
            plans[key] = plans[()].with_options(options)
        return plans[key]


def _backend_prefix(app: Celery) -> str:
    """What keeps apps on one Redis apart in the result backend; ends as Celery has it end."""
    options = app.conf.result_backend_transport_options or {}
    prefix: str = options.get("global_keyprefix") or ""
    return prefix if not prefix or prefix[-1] in ":_-." else f"{prefix}_"


def _driver_url(url: str) -> str:
    """A URL as the result backend takes it, in redis-py's words."""
    url = url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=")
    for word in ("REQUIRED", "OPTIONAL", "NONE"):
        url = url.replace(f"ssl_cert_reqs=CERT_{word}", f"ssl_cert_reqs={word.lower()}")
    return url


def install(app: Celery) -> tuple[Runtime, bool]:
    """The app's runtime and whether it was made just now."""
    found = installed(app)
    if found is not None:
        return found, False
    runtime = Runtime(app)
    setattr(app, _ATTRIBUTE, runtime)
    return runtime, True


def runtime_of(app: Celery) -> Runtime:
    """The runtime of an app.

    Raises:
        SetupError: the app has no :class:`SagaManager`.
    """
    found = installed(app)
    if found is None:
        raise SetupError(
            f"the Celery app {app.main!r} has no saga manager in this process: add "
            f"'sagas = SagaManager(app)' after 'app = Celery(...)', in every process that starts "
            f"or runs sagas"
        )
    return found


def installed(app: Celery) -> Runtime | None:
    """The runtime of an app, if it has one."""
    return getattr(app, _ATTRIBUTE, None)
