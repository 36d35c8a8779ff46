"""Refuses two steps of one full name in a plan: their idempotency keys would be equal."""

from __future__ import annotations

from celery_saga.core.plan import Commits, Plan
from celery_saga.errors import DefinitionError


def check_names(plan: Plan) -> None:
    """Refuse a step that is named as one of a nested saga is, with the name of that in front.

    Raises:
        DefinitionError: the text names both.
    """
    seen: dict[str, str] = {}
    for path, node in plan.walk():
        if not path or isinstance(node, Commits):
            continue
        outer = plan.at(plan.above(path)).name if path[1:] else ""
        where = f"of {outer!r}" if outer else "of the saga itself"
        if plan.committed(path) is not None:
            where = "of an on_commit task"
        if node.name in seen:
            raise DefinitionError(
                f"saga {plan.saga!r}: two of its steps have the full name {node.name!r}, one "
                f"{seen[node.name]} and one {where}, and idempotency keys are made of it: give one "
                f"of them another name="
            )
        seen[node.name] = where
