"""Where an app's sagas are kept: what its manager was given, else a setting, else its backend."""

from __future__ import annotations

from typing import Any

import redis
from celery import Celery
from celery.backends.redis import RedisBackend

from celery_saga.core.context.codec import JSON, Codec
from celery_saga.core.ports import Store
from celery_saga.errors import SetupError
from celery_saga.settings import Settings
from celery_saga.stores.memory import MemoryStore
from celery_saga.stores.redis import RedisStore

_SCHEMES = ("redis://", "rediss://", "redis+socket://", "unix://", "memory://")

#: What a store must have.
_PARTS = [name for name in vars(Store) if not name.startswith("_")]

_NO_STORE = (
    "no store for sagas: the result backend {backend} cannot compare and swap. Set saga_store_url "
    "to a Redis server, for example app.conf.saga_store_url = 'redis://localhost/1'; the result "
    "backend may stay as it is"
)


def checked(storage: Any) -> str | Store:
    """What may stand as ``SagaManager(app, storage=...)``.

    Raises:
        SetupError: it is neither a store nor the URL of one.
    """
    if isinstance(storage, str):
        return _checked_url("SagaManager: storage", storage)
    # A property of its class is not asked for: it may need a server.
    missing = [
        name for name in _PARTS if not (hasattr(type(storage), name) or hasattr(storage, name))
    ]
    if not missing and not isinstance(storage, type):
        return storage  # type: ignore[no-any-return]
    if isinstance(storage, redis.Redis):
        advice = "wrap it: celery_saga.stores.redis.RedisStore(client)"
    elif missing:
        advice = f"this lacks {missing[0]!r} of what celery_saga.core.ports.Store asks for"
    else:
        advice = "make an object of the class"
    raise SetupError(
        f"SagaManager: storage: expected a store's URL such as 'redis://localhost/1' or a store, "
        f"found a {type(storage).__name__}; {advice}"
    )


def new_store(
    app: Celery, storage: str | Store | None, memory: MemoryStore, codec: Codec = JSON
) -> Store:
    """The store of ``app``, with a connection of its own where it has one.

    Args:
        storage: a store, which is used as it is, or a URL that goes before ``saga_store_url``.
        memory: the store of ``memory://`` in this process.
        codec: reads the values that the store has as texts.

    Raises:
        SetupError: the app has no store that can compare and swap.
    """
    if storage is not None and not isinstance(storage, str):
        return storage
    settings = Settings.of(app)
    # 0 is for ever, as for Celery's own results
    options: dict[str, Any] = {"expires": settings.result_expires or None, "codec": codec}
    options["prefix"] = settings.key_prefix
    url = storage if storage is not None else settings.store_url
    if url is None:
        backend: Any = app.backend
        if not isinstance(backend, RedisBackend):
            raise SetupError(_NO_STORE.format(backend=type(backend).__name__))
        # An app has a backend for each thread, with connections of its own that live until the
        # garbage collector finds them. All threads share this one's; closing it is not for us.
        client = backend.client
        options["prefix"] = _backend_prefix(app) + settings.key_prefix
        return RedisStore(lambda: client, **options)
    if _checked_url("saga_store_url", url) == "memory://":
        return memory
    return RedisStore(redis.Redis.from_url(_driver_url(url)), **options)


def _checked_url(name: str, url: str) -> str:
    if not url.startswith(_SCHEMES):
        # No more of it is shown: there may be a password in it.
        found = f"{url.partition('://')[0]}://..." if "://" in url else "no URL"
        advice = ""
        if url.startswith("sentinel://"):
            advice = (
                "; sentinel:// is taken as result_backend (then leave this out), or give "
                "SagaManager(app, storage=RedisStore(redis.Sentinel(...).master_for(name)))"
            )
        raise SetupError(
            f"{name}: expected a redis://, rediss:// or redis+socket:// URL, found {found}{advice}"
        )
    return url


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
