"""Short reprs of records, for failed assertions and debuggers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, fields
from typing import Any

from celery_saga.core.context.lazy import NotLoaded

#: Steps that are shown, and characters of a line.
STEPS, WIDTH = 5, 80


def short(record: Any) -> str:
    """Return a record's repr without the fields that have their default values."""
    shown = [
        f"{spec.name}={getattr(record, spec.name)!r}"
        for spec in fields(record)
        if spec.repr and getattr(record, spec.name) != _default(spec)
    ]
    return f"{type(record).__name__}({', '.join(shown)})"


def _default(spec: Any) -> Any:
    return spec.default if spec.default is not MISSING else MISSING


def execution_lines(execution: Any) -> Iterator[str]:
    """Yield an execution's repr in at most ten lines, without values of the context."""
    status, name = execution.status.value, execution.plan.saga
    yield f"<{type(execution).__name__} {_line(repr(name))} {execution.saga_id}: {status}"
    for failure in (execution.rollback_reason, execution.error):
        if failure is not None:
            at = f" at step {failure.step!r}" if failure.step else ""
            yield f"  {_line(f'failed{at}: {failure}')}"
            break
    paths = _paths(execution)
    length = len(paths)
    first = max(0, min(_centre(execution, paths) - STEPS // 2, length - STEPS))
    if first:
        yield f"  ... ({first} more before)"
    for path in paths[first : first + STEPS]:
        yield f"  {_step(execution, path)}"
    if first + STEPS < length:
        yield f"  ... ({length - first - STEPS} more behind)"
    yield f"  context: {_line(_keys(execution.view(())))}>"


def _paths(execution: Any) -> Sequence[Any]:
    """Paths of the steps that there are; of one that was read in part those of its plan."""
    try:
        found: Sequence[Any] = execution.steps.paths()
    except NotLoaded:
        found = execution.plan.leaves
    return found


def _centre(execution: Any, paths: Sequence[Any]) -> int:
    """Place of the most important step: the current one, else the failed one, else the last."""
    try:
        current = None if execution.settled else execution.current
    except NotLoaded:
        current = None
    if current in paths:
        return paths.index(current)
    names = [execution.plan.name_of(path) for path in paths]
    failed = execution.error.step if execution.error is not None else ""
    return names.index(failed) if failed in names else len(names) - 1


def _step(execution: Any, path: Any) -> str:
    name = execution.plan.name_of(path)
    try:
        step = execution.steps[path]
    except NotLoaded:
        return f"{_line(name)}: not read"
    error = step.compensation_error or step.error
    return f"{_line(name)}: {step.status.value}" + (f" ({_line(error)})" if error else "")


def _keys(values: Iterable[str]) -> str:
    try:
        return ", ".join(values) or "empty"
    except NotLoaded:
        return "not read"


def _line(text: Any) -> str:
    """Return the text as one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."
