"""Puts something round what the engine of the site's app works with."""

from __future__ import annotations

from typing import Any

from celery_saga.runtime import runtime_of
from tests.worker.apps.site import app

__all__ = ["app", "wrap_orchestrators"]


def wrap_orchestrators(store: Any, publisher: Any, results: Any, change: Any = None) -> None:
    """Have the parts of every new orchestrator wrapped, and its changes if that is asked for."""
    runtime: Any = runtime_of(app)
    make = runtime.new_orchestrator

    def new_orchestrator(*args: Any) -> Any:
        orchestrator = make(*args)
        orchestrator.store = store(orchestrator.store)
        orchestrator.publisher = publisher(orchestrator.publisher)
        orchestrator.results = results(orchestrator.results)
        if change is not None:
            orchestrator._change = change(orchestrator._change)
        return orchestrator

    runtime.new_orchestrator = new_orchestrator
