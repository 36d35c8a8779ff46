"""What the tab shows, as plain data. It may wait for the store: call it in a thread."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from celery import Celery

from celery_saga.core.context.masking import masked
from celery_saga.core.decide.repair import repairs_of
from celery_saga.core.decide.transitions import past_pivot
from celery_saga.core.execution import Direction, SagaExecution, SagaStatus
from celery_saga.core.plan import Commits, ForEach, NestedSaga, Parallel, Path, Plan, dotted
from celery_saga.core.plan.nodes import Choice, Node, Sleep, Wait
from celery_saga.core.state import StepRef
from celery_saga.core.views.overview import brief, view
from celery_saga.core.views.text import printable, span
from celery_saga.core.views.timeline import Scale, Span, scale_of, spans_of
from celery_saga.manager import SagaManager

#: Sagas on one page, and pages; characters of a context value that a page shows.
PAGE, PAGES, VALUE = 50, 1_000, 2_000

#: How Bootstrap shows a status.
COLOURS: Mapping[str, str] = {
    "COMPLETED": "success",
    "SUCCEEDED": "success",
    "COMPENSATED": "warning",
    "COMPENSATING": "warning",
    "STUCK": "danger",
    "FAILED": "danger",
    "UNKNOWN": "danger",
    "COMPENSATION_FAILED": "danger",
    "RUNNING": "primary",
    "PAUSED": "info",
    "WAITING": "info",
}

_KINDS: Mapping[type[Node], str] = {
    NestedSaga: "saga",
    Parallel: "parallel",
    ForEach: "for each",
    Choice: "choice",
    Wait: "wait",
    Sleep: "sleep",
    Commits: "commit",
}


def colour(status: str) -> str:
    """Bootstrap's word for the colour of a status."""
    return COLOURS.get(status, "secondary")


def sagas(
    app: Celery, status: str = "", saga: str = "", page: int = 1, limit: int = PAGE
) -> dict[str, Any]:
    """A page of sagas, the last changed one first.

    Args:
        status: only those in it; empty: all.
        saga: only those of that name; empty: all.
        page: which, from 1 to :data:`PAGES`.
        limit: how many sagas a page has.

    Returns:
        ``{"sagas": [...], "counts": {"RUNNING": 3, ...}, "now": store time, "next": number of the
        next page, or None}``.

    Raises:
        ValueError: the status is unknown, or the page is out of range.
    """
    if not 1 <= page <= PAGES:
        raise ValueError(f"page: expected 1 to {PAGES}; narrow the search by status or name")
    manager = SagaManager(app)
    now = manager._runtime.store.now()
    found = manager.list(status or None, saga=saga or None, limit=limit, offset=(page - 1) * limit)
    rows = [_row(execution, now) for execution in found]
    counts = {each.value: count for each, count in manager.counts(saga=saga or None).items()}
    total = counts.get(status.upper(), 0) if status else sum(counts.values())
    more = page + 1 if page * limit < total and page < PAGES else None
    return {"sagas": rows, "now": now, "next": more, "counts": counts}


def _row(execution: SagaExecution, now: float) -> dict[str, Any]:
    shown = {**_printable(brief(execution)), "steps": []}
    for path in execution.steps.paths():
        record = execution.steps[path]
        name = printable(record.name)
        shown["steps"].append({"step": name, "status": record.status.value})
    return {**shown, "age": span(now - execution.updated_at)}


def one(app: Celery, saga_id: str) -> dict[str, Any]:
    """All that the page of a saga shows; secrets are masked, long values are cut.

    Raises:
        SagaExecutionNotFoundException: no saga has this id.
    """
    manager = SagaManager(app)
    execution, now = manager.get(saga_id).execution, manager._runtime.store.now()
    shown = view(execution, app.main or "proj")
    paths = list(execution.steps.paths())
    spans = {path: spans_of(execution, path, now) for path in paths}
    scale = scale_of(each for found in spans.values() for each in found)
    return {
        **_printable(shown),
        "history": [_printable(note) for note in shown["history"]],
        "context": [_value(key, value) for key, value in shown["context"].items()],
        "rows": list(_rows(execution, spans, scale)),
        "folds": [{**vars(fold), "text": span(fold.seconds)} for fold in scale.folds],
        "verbs": _verbs(execution),
        "live": not execution.settled,
        "now": now,
    }


def _printable(shown: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with every text in it printable."""
    return {key: printable(it) if isinstance(it, str) else it for key, it in shown.items()}


def _value(key: str, value: str) -> dict[str, Any]:
    text = printable(value)
    return {"key": printable(key), "text": text[:VALUE], "cut": max(0, len(text) - VALUE)}


def _rows(
    execution: SagaExecution, spans: Mapping[Path, list[Span]], scale: Scale
) -> Iterator[dict[str, Any]]:
    """The nodes that were touched or come next, as a tree: each with its depth."""
    steps, plan = execution.steps, execution.plan
    shown = {found for each in spans for found in _with_outer(plan, each)}
    for found in sorted(shown):
        node, name = plan.at(found), printable(plan.name_of(found))
        depth = len(list(_with_outer(plan, found))) - 1
        row = {"path": dotted(found), "depth": depth, "name": name}
        kind = _KINDS.get(type(node), "")
        if found not in spans:
            known = None if isinstance(node, NestedSaga) else steps[found]
            status = known.status.value if known else ""
            yield {**row, "kind": kind, "status": status, "bars": [], "group": True}
            continue
        bars = [_bar(each, scale) for each in spans[found]]
        yield {**row, "kind": kind, "group": False, "bars": bars, **_step(execution, found)}


def _with_outer(plan: Plan, path: Path) -> Iterator[Path]:
    """A node, and the nodes that it is inside of."""
    while path:
        yield path
        path = plan.above(path)


def _step(execution: SagaExecution, path: Path) -> dict[str, Any]:
    record = execution.steps[path]
    links = []
    forward = record.forward_epoch or record.epoch
    if forward:
        ref = StepRef(path, Direction.FORWARD, forward)
        links.append({"text": "task", "id": ref.task_id(execution.saga_id)})
    if record.forward_epoch and record.epoch > record.forward_epoch:
        ref = StepRef(path, Direction.COMPENSATION, record.epoch)
        links.append({"text": "compensation", "id": ref.task_id(execution.saga_id)})
    return {
        "status": record.status.value,
        "activity": execution.activity(path),
        "task": printable(execution.plan.step(path).action.task),
        "error": printable(str(record.compensation_error or record.error or "")),
        "attempts": len(record.log),
        "links": links,
    }


def _bar(each: Span, scale: Scale) -> dict[str, Any]:
    left, right = scale.place(each.begun), scale.place(each.ended)
    words = [each.kind, f"attempt {each.number}" if each.number else "", each.outcome.lower()]
    words += [f"{each.ended - each.begun:.2f} s", f"on {each.node}" if each.node else ""]
    text = printable(" · ".join(filter(None, [*words, each.error])))
    look = f"{each.kind} {each.outcome.lower()}"
    return {"left": left, "width": right - left, "look": look, "text": text}


#: What a verb is asked about, and the field of its request that the answer is.
_ASKS: Mapping[str, tuple[str, str]] = {
    "retry": ("Values to correct in the context, as JSON; nothing: none", "context"),
    "signal": ("The payload as JSON; nothing: none", "payload"),
}


def _verbs(execution: SagaExecution) -> list[dict[str, Any]]:
    """The verbs that apply now, each with the fields of its request that are known already."""
    verbs = [*repairs_of(execution)]
    if execution.status is SagaStatus.RUNNING:
        verbs.append(("pause", "send no further step"))
        if not past_pivot(execution):
            verbs.append(("cancel", "compensate what was done"))
    return [_verb(text, does) for text, does in verbs]


def _verb(text: str, does: str) -> dict[str, Any]:
    verb, *words = shlex.split(text)
    asks, field = _ASKS.get(verb, ("", ""))
    given = {"resolve": {"status": words[-1]}, "signal": {"name": words[0]}} if words else {}
    label = printable(" ".join([verb, *(word for word in words if word != "--as")]))
    known = json.dumps(given.get(verb, {}))
    return {
        "verb": verb,
        "label": label,
        "does": does,
        "asks": asks,
        "field": field,
        "known": known,
    }


def export(app: Celery, saga_id: str) -> dict[str, Any]:
    """The whole saga as ``SagaExecution.raw``, with its context masked.

    Raises:
        SagaExecutionNotFoundException: no saga has this id.
    """
    execution = SagaManager(app).get(saga_id).execution
    raw = execution.raw
    hidden = masked(execution.context)
    raw["context"] = {
        key: value if hidden[key] == execution.context[key] else hidden[key]
        for key, value in raw["context"].items()
        if key in hidden
    }
    return raw
