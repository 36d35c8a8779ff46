"""What must not depend on where a saga ran: its bodies and their keys, and how it ended."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError

from celery_saga import SagaManager, SagaResult
from celery_saga.errors import SagaExecutionNotFoundException
from tests.worker.apps.scenarios import EVERY, build
from tests.worker.harness import Journal

Record = dict[str, Any]


def begin(app: Celery, name: str) -> SagaResult:
    """Start the saga of a scenario."""
    scenario = EVERY[name]
    result = build(app, name).apply_async(scenario.context, **scenario.start)
    if name == "cancelled before it starts":
        assert result.cancel()
    return result


def record(journal: Journal, result: SagaResult, timeout: float = 40) -> Record:
    """The facts of a settled saga, without its id; plain JSON."""
    result.get(timeout=timeout, propagate=False)
    execution = result.execution
    facts: Record = {
        "bodies": [
            {name: value for name, value in line.items() if name != "pid"}
            for line in journal.of(result.id)
        ],
        "status": execution.status.value,
        "context": dict(execution.context),
        "error": execution.error and execution.error.type,
        "steps": [
            {
                "status": step.status.value,
                "error": step.error and str(step.error),
                "undo error": step.undo_error and str(step.undo_error),
                "attempts": step.attempts,
                "rounds": (step.round, step.undo_round),
                "lost": step.lost,
                "effect": step.effect,
            }
            for step in execution.steps
        ],
    }
    text = json.dumps(facts, default=str).replace(result.id, "<saga>")
    facts = json.loads(text)
    child = f"{result.id}-child"
    if "child" in facts["context"]:
        manager = SagaManager(result._runtime.app)
        facts["child"] = record(journal, manager.get(child), timeout)
    return facts


def records(
    journal: Journal, app: Celery, names: Iterable[str], timeout: float = 40
) -> dict[str, Record]:
    """All at once, those with a deadline after the others; one that does not end is missing."""
    found, names = {}, set(names)
    hurried = {name for name in names if "deadline" in EVERY[name].start}
    for some in (names - hurried, hurried):
        results = {name: begin(app, name) for name in some}
        for name, result in results.items():
            with contextlib.suppress(TimeoutError, SagaExecutionNotFoundException):
                found[name] = record(journal, result, timeout)
    return found
