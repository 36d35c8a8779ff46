"""An app whose manager gets storage=, as in the original library."""

import os

import redis
from celery import Celery

from celery_saga import SagaManager
from celery_saga.stores.redis import RedisStore
from tests.worker.apps import steps

__all__ = ["app", "steps"]


def storage_of(kind, url):
    """The URL, or a store that the user has made."""
    return url if kind == "url" else RedisStore(redis.Redis.from_url(url), prefix="mine:")


app = Celery("stored", set_as_current=False)
sagas = SagaManager(
    storage=storage_of(os.environ["SAGA_TEST_STORAGE"], os.environ["SAGA_TEST_STORE_URL"]),
    broker_pool=app,
)
app.config_from_object("tests.worker.apps.settings")
