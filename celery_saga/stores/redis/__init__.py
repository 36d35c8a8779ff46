"""The store on Redis or Valkey."""

from celery_saga.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
