"""How long sagas are kept, by the words of Celery's own setting."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from celery_saga.stores.factory import new_store
from celery_saga.stores.memory import MemoryStore


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, "86400"),
        ({"result_expires": 100}, "100"),
        ({"result_expires": timedelta(minutes=2)}, "120"),
        ({"result_expires": 100, "saga_result_expires": 7}, "7"),
        ({"result_expires": None}, ""),
        ({"result_expires": 0}, ""),
        ({"result_expires": 100, "saga_result_expires": 0}, ""),
        ({"result_expires": timedelta(0)}, ""),
    ],
    ids=str,
)
def test_seconds_for_which_ended_sagas_are_kept(settings: dict[str, Any], seconds: str) -> None:
    """Zero is for ever, as of Celery's own results."""
    app = Celery("kept", backend="redis://localhost/0", set_as_current=False)
    app.conf.update({"saga_result_expires": None, "saga_key_prefix": "saga:", **settings})
    store: Any = new_store(app, "redis://localhost/1", MemoryStore())
    assert store._expires == seconds
