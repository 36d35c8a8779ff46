"""A saga as plain data, and as lines of text for an operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celery_saga.core.context.masking import masked
from celery_saga.core.decide.repair import command_of, obstacle_of, repairs_of
from celery_saga.core.decide.transitions import name_of_current
from celery_saga.core.execution import Direction, SagaExecution
from celery_saga.core.plan import Path
from celery_saga.core.state import Attempt
from celery_saga.ops.cli.shared import age, cut, moment, printable, table


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


def lines_of(seen: Mapping[str, Any], now: float) -> Iterator[str]:
    """The view of a saga, line by line."""
    yield f"saga     {printable(seen['saga'])} {seen['id']}"
    yield f"status   {seen['status']}, changed {age(now - seen['updated_at'])}"
    yield f"started  {moment(seen['created_at'])}"
    if seen["cause"]:
        where = f"step {seen['step']}: " if seen["step"] else ""
        yield f"cause    {printable(where + seen['cause'])}"
    yield ""
    yield from table(
        ("STEP", "STATUS", "TASK", "ERROR"),
        [
            (
                step["step"],
                f"{step['status']} ({step['activity']})" if step["activity"] else step["status"],
                step["task"],
                step["compensation_error"] or step["error"],
            )
            for step in seen["steps"]
        ],
    )
    yield from _part("attempts", [line for step in seen["steps"] for line in _attempts(step)])
    yield from _part("history", [_event(note) for note in seen["history"]])
    context = [f"{printable(key)} = {cut(value)}" for key, value in seen["context"].items()]
    yield from _part("context", context)
    width = max((len(each["command"]) for each in seen["repairs"]), default=0)
    yield from _part(
        "what can be done",
        [f"{each['command'].ljust(width)}  # {each['does']}" for each in seen["repairs"]],
    )


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


def _attempts(step: Mapping[str, Any]) -> Iterator[str]:
    """The attempts of a step, if one of them did not succeed."""
    if all(each["outcome"] == "SUCCEEDED" for each in step["attempts"]):
        return
    for each in step["attempts"]:
        took = each["ended_at"] - each["claimed_at"]
        error = f": {each['error']}" if each["error"] else ""
        text = f"{step['step']} {each['task']} {each['number']} on {each['node'] or 'a client'}"
        yield (
            f"{moment(each['claimed_at'])}  {printable(text)}  {took:.1f} s  "
            f"{each['outcome']}{cut(error)}"
        )


def _event(note: Mapping[str, Any]) -> str:
    by = f" by {note['by']}" if note["by"] else ""
    detail = f": {note['detail']}" if note["detail"] else ""
    return f"{moment(note['at'])}  {printable(note['what'] + by + detail)}"


def _part(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield title
        yield from (f"  {line}" for line in lines)
