"""Settings of the project; the tests say where its servers are."""

import json
import os

SECRET_KEY = "of no use to anybody"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "tests.django.project.urls"
INSTALLED_APPS = ["tests.django.orders", "celery_saga.contrib.barrier.django"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SAGA_TEST_DATABASE", ":memory:"),
        "ATOMIC_REQUESTS": True,
        "OPTIONS": {"timeout": 20},
    },
    "archive": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django.request": {"handlers": ["console"]}},
}

CELERY_BROKER_URL = os.environ.get("SAGA_TEST_URL", "memory://")
CELERY_RESULT_BACKEND = os.environ.get("SAGA_TEST_URL", "cache+memory://")
CELERY_SAGA_HEARTBEAT, CELERY_SAGA_HEARTBEAT_TTL = 0.2, 0.8
globals().update(json.loads(os.environ.get("SAGA_TEST_SETTINGS", "{}")))
