"""Refuses ``inputs=`` and ``returns=`` of a nested saga that can have no meaning for its steps."""

from __future__ import annotations

from collections.abc import Iterator

from celery_saga.core.plan import Choice, ForEach, NestedSaga, Node, PlanStep
from celery_saga.core.plan.nodes import calls_of, children
from celery_saga.errors import DefinitionError


def check_seen(nested: NestedSaga) -> None:
    """Refuse keys that none of its steps reads or writes, as far as that is known.

    Steps that take the whole context may read any key, and those whose results are merged may
    write any.

    Raises:
        DefinitionError: the text names the keys.
    """
    inside = list(_below(nested))
    steps = [node for node in inside if isinstance(node, PlanStep)]
    calls = [call for node in inside for call, _ in calls_of(node)]
    calls += [step.commit for step in steps if step.commit is not None]
    if nested.inputs is not None and all(call.style == "inputs" for call in calls):
        read = {str(item.path[0]) for call in calls for item in call.inputs if item.path}
        read |= {str(node.over[0]) for node in inside if isinstance(node, ForEach)}
        for node in inside:
            if isinstance(node, NestedSaga) and node.inputs is not None:
                read |= {*node.inputs.values()}
        _refuse_unknown("inputs", "reads", nested, set(nested.inputs), read)
        _check_first(nested, nested.inputs)
    written = [step.action.returns for step in steps if step.action.returns is not False]
    plain = all(isinstance(node, PlanStep | Choice) for node in inside)
    if nested.returns is not None and plain and all(isinstance(key, str) for key in written):
        known = {*map(str, written), *(nested.inputs or ())}
        _refuse_unknown("returns", "writes", nested, set(nested.returns.values()), known)


def _refuse_unknown(
    option: str, verb: str, nested: NestedSaga, given: set[str], known: set[str]
) -> None:
    unknown = sorted(given - known)
    if unknown:
        raise DefinitionError(
            f"step {nested.name!r}: {option}= names {unknown[0]!r}, which no step of that saga "
            f"{verb}: expected keys among {sorted(known) or 'none'}"
        )


def _check_first(nested: NestedSaga, inputs: object) -> None:
    """Refuse inputs that lack a key which the first step requires: nothing can supply it."""
    first: Node = nested
    while isinstance(first, NestedSaga) and (first is nested or not first.scoped):
        first = first.steps[0]
    for item in first.action.inputs if isinstance(first, PlanStep) else ():
        key = item.path[0] if item.path else None
        if item.required and key is not None and key not in (nested.inputs or {}):
            raise DefinitionError(
                f"step {nested.name!r}: inputs= lacks {key!r}, which its first step "
                f"{first.name!r} requires: add it"
            )


def _below(node: Node) -> Iterator[Node]:
    for child in children(node):
        yield child
        yield from _below(child)
