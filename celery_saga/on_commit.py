"""Django's ``transaction.on_commit``, if there is a Django here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from celery_saga.errors import SetupError


def on_commit(call: Callable[[], object], using: str | None = None) -> None:
    """Make ``call`` once Django's current transaction is committed; outside of one, now.

    Args:
        using: the database, by its name in ``DATABASES``; left out, the default one.

    Raises:
        SetupError: Django is not installed, or not configured in this process.
        ValueError: Django knows no such database.
    """
    try:
        transaction: Any = importlib.import_module("django.db.transaction")
        exceptions: Any = importlib.import_module("django.core.exceptions")
        databases: Any = importlib.import_module("django.db")
        unknown: Any = importlib.import_module("django.utils.connection").ConnectionDoesNotExist
    except ImportError as error:
        raise SetupError(
            "delay_on_commit() is for Django, which is not installed here: use delay(), or install "
            "celery-saga-workflow[django]"
        ) from error
    try:
        transaction.get_connection(using).ensure_connection()
    except unknown as error:
        raise ValueError(
            f"using: expected one of {sorted(databases.connections)}, as in DATABASES, found "
            f"{using!r}; a context key named 'using' goes into "
            f"apply_async_on_commit({{'using': ...}})"
        ) from error
    except exceptions.ImproperlyConfigured as error:
        raise SetupError(
            f"delay_on_commit() needs Django's settings and database in this process: set "
            f"DJANGO_SETTINGS_MODULE and call django.setup(), or use delay() ({error})"
        ) from error
    transaction.on_commit(call, using=using)
