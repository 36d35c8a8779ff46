"""What a run does, as plain data: calls of tasks, the nodes that they are in, and the plan."""

from __future__ import annotations

from celery_saga.core.plan.call import Call, Input, Style
from celery_saga.core.plan.nodes import (
    Case,
    Choice,
    Commits,
    ForEach,
    NestedSaga,
    Node,
    Parallel,
    PlanStep,
    RemoteStep,
    Sleep,
    Wait,
)
from celery_saga.core.plan.plan import Path, Plan, dotted

__all__ = [
    "Call",
    "Case",
    "Choice",
    "Commits",
    "ForEach",
    "Input",
    "NestedSaga",
    "Node",
    "Parallel",
    "Path",
    "Plan",
    "PlanStep",
    "RemoteStep",
    "Sleep",
    "Style",
    "Wait",
    "dotted",
]
