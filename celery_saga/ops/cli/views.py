"""A saga as lines of text for an operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celery_saga.core.views.text import age, moment, printable
from celery_saga.ops.cli.shared import cut, table


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
