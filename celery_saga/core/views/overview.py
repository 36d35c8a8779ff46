"""A saga as plain data, for all that shows it to an operator."""

from __future__ import annotations

from typing import Any

from celery_saga.core.context.masking import masked
from celery_saga.core.decide.repair import command_of, obstacle_of, repairs_of
from celery_saga.core.decide.transitions import name_of_current
from celery_saga.core.execution import Direction, SagaExecution
from celery_saga.core.plan import Path
from celery_saga.core.state import Attempt


def brief(execution: SagaExecution) -> dict[str, Any]:
    """A saga in one line: ``id, saga, status, step, cause, created_at, updated_at``.

    ``step`` is the one that it failed at, or else the one where it is.
    """
    obstacle = obstacle_of(execution)
    here = "" if execution.settled else name_of_current(execution)
    return {
        "id": execution.saga_id,
        "saga": execution.name,
        "status": execution.status.value,
        "step": obstacle.step if obstacle and obstacle.step else here,
        "cause": obstacle.cause if obstacle else "",
        "created_at": execution.created_at,
        "updated_at": execution.updated_at,
    }


def view(execution: SagaExecution, app: str) -> dict[str, Any]:
    """All that an operator needs of a saga; the context's secrets are masked.

    Args:
        app: what goes behind ``-A`` in the proposed commands.
    """
    steps = [_step(execution, path) for path in execution.steps.paths()]
    return {
        **brief(execution),
        "steps": steps,
        "history": [
            {"at": note.at, "what": note.what, "by": note.by, "detail": note.detail}
            for note in execution.history
        ],
        "context": {key: repr(value) for key, value in masked(execution.context).items()},
        "repairs": [
            {"command": command_of(verb, execution.saga_id, app), "does": does}
            for verb, does in repairs_of(execution)
        ],
    }


def _step(execution: SagaExecution, path: Path) -> dict[str, Any]:
    step, planned = execution.steps[path], execution.plan.step(path)
    return {
        "step": step.name,
        "task": planned.action.task,
        "status": step.status.value,
        "activity": execution.activity(path),
        "attempts": [_attempt(each) for each in step.log],
        "error": str(step.error or ""),
        "compensation": planned.compensation.task if planned.compensation else "",
        "compensation_error": str(step.compensation_error or ""),
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "task": "action" if attempt.direction is Direction.FORWARD else "compensation",
        "node": attempt.node,
        "instance": attempt.instance,
        "claimed_at": attempt.claimed_at,
        "ended_at": attempt.ended_at,
        "outcome": attempt.outcome.value,
        "error": attempt.error,
    }
