"""Requests of operators and programs to sagas, by name."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from celery import Celery

from celery_saga import Saga, SagaExecution, SagaManager
from celery_saga.core import events
from celery_saga.core.execution import SagaStatus
from celery_saga.runtime import runtime_of
from tests.worker.apps.crashing_steps import compensation, late

_EVENTS = {
    "pause": lambda at: events.PauseRequested(at, "ann"),
    "resume": lambda at: events.ResumeRequested(at, "ann"),
    "retry": lambda at: events.RetryRequested(at, "ann"),
    "retry with": lambda at: events.RetryRequested(at, "ann", {"receipt": 7}),
    "skip": lambda at: events.SkipRequested(at, "ann"),
    "signal": lambda at: events.SignalReceived(at, "approved", "true", "t", "ann"),
    "resolve": lambda at: events.ResolveRequested(at, SagaStatus.COMPLETED, "ann"),
}


def start(app: Celery, saga_id: str, **options: Any) -> Any:
    """Three steps, each with its compensation."""
    saga = Saga("crashing", app=app)
    for name in "abc":
        saga.local_step(late, name=name).on_failure(compensation)
    return saga.commit().apply_async({}, saga_id=saga_id, **options)


def ask(app: Celery, what: str, saga_id: str, text: str = "") -> Any:
    """Ask that of a saga.

    Args:
        text: an exported execution, to be taken in.

    Raises:
        SagaError: it is refused.
    """
    manager = SagaManager(app)
    if what == "start":
        return start(app, saga_id)
    if what == "start later":
        return start(app, saga_id, countdown=0.5)
    if what == "take in":
        execution = SagaExecution.from_raw(json.loads(text))
        return asyncio.run(manager.repository.store(execution))
    if what == "delete":
        return asyncio.run(manager.repository.delete(saga_id))
    if what in _EVENTS:
        orchestrator = runtime_of(app).orchestrator
        return orchestrator.apply(saga_id, _EVENTS[what](orchestrator.store.now())).execution
    verb = {"cancel": "cancel", "terminate": "cancel", "forget": "forget"}[what]
    options = {"terminate": True} if what == "terminate" else {}
    return getattr(manager.get(saga_id), verb)(**options)
