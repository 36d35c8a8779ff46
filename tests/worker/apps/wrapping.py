"""Puts something round what the engine of the site's app works with."""

from __future__ import annotations

from typing import Any

from celery_saga.runtime import runtime_of
from tests.worker.apps.site import app

__all__ = ["app", "wrap_orchestrators"]


def wrap_orchestrators(store: Any, dispatcher: Any, handle: Any = None) -> None:
    """Have the parts of every new orchestrator wrapped, and its ``change`` if that is asked for."""
    runtime: Any = runtime_of(app)
    make = runtime.new_orchestrator

    def new_orchestrator(*args: Any) -> Any:
        orchestrator = make(*args)
        orchestrator.store = store(orchestrator.store)
        orchestrator.dispatcher = dispatcher(orchestrator.dispatcher)
        if handle is not None:
            orchestrator.change = handle(orchestrator.change)
        return orchestrator

    runtime.new_orchestrator = new_orchestrator
