"""Each field of an execution and of a step's record comes back from plain JSON as it was."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from celery_saga.core.checkpoint import (
    HEAD_LEAVES_OUT,
    head_from_dict,
    head_to_dict,
    record_to_dict,
    step_from_dict,
)
from celery_saga.core.execution import SagaExecution
from celery_saga.core.plan import Plan, PlanStep
from celery_saga.core.plan.call import Call
from celery_saga.core.state import (
    Attempt,
    AttemptOutcome,
    Claim,
    Direction,
    Failure,
    OperatorRequest,
    Request,
    SagaStatus,
    SagaStepExecution,
    Signal,
    StepRef,
    StepStatus,
    replace,
)

FAILURE = Failure("Declined", "no cover", "charge", 2, ("no cover", 1))
CLAIM = Claim("t", "i", 1, 5.0, "outer", "celery@host")
ATTEMPT = Attempt(1, Direction.COMPENSATION, "n", "i", 1.0, 2.0, AttemptOutcome.LOST, "lost")

#: A value of each field that is not its default; of a field with a class of its own, one of that.
OF_HEAD: dict[str, Any] = {
    "status": SagaStatus.COMPENSATING,
    "direction": Direction.COMPENSATION,
    "active": (StepRef((2, 0, 1), Direction.FORWARD, 3),),
    "journal": ((0,), (1,), (2, 0, 3), (5,)),
    "replaced": {"key": 2},
    "rollback_reason": FAILURE,
    "held": FAILURE,
    "error": FAILURE,
    "deadline": 7.5,
    "due_at": 8.5,
    "wants_result": True,
    "result_pending": True,
    "callbacks": {"link": []},
    "headers": {"tenant": "t"},
    "stuck_count": 2,
    "last_requests": (OperatorRequest(1.0, "retry", "ann"),),
    "signals": (Signal("approved", '{"by": 1}', ("a", "b")), Signal("paid", None)),
    "resolved_at": 9.5,
    "root_id": "r",
    "parent_id": "p",
    "run_id": "u",
    "first_round": 1,
    "opened_with": "d",
    "created_at": 1.5,
    "updated_at": 2.5,
}
OF_STEP: dict[str, Any] = {
    "status": StepStatus.UNKNOWN,
    "epoch": 3,
    "forward_epoch": 2,
    "claim": CLAIM,
    "effect": True,
    "retries": 4,
    "attempts": 5,
    "lost": 6,
    "round": 7,
    "compensation_round": 8,
    "late_effect": True,
    "effect_tokens": ("a", "b"),
    "expected_at": 1.5,
    "republished": 9,
    "unclaimed": 10,
    "not_before": 2.5,
    "task_unknown_since": 3.5,
    "error": FAILURE,
    "compensation_error": FAILURE,
    "kept": {"a": "1", "b": None},
    "returned": ("a", "b"),
    "revised": {"options": {"queue": "q"}},
    "log": (ATTEMPT,),
    "chosen": 1,
    "asked": 2,
    "left": 3,
    "request": Request(
        "token", {"task": "a", "args": ["1"]}, True, 6.5, {"status": 200, "content": "null"}
    ),
    "requests": ("a", "b"),
    "started_at": 4.5,
    "ended_at": 5.5,
}


#: What stores keep apart from the head.
APART = HEAD_LEAVES_OUT - {"active", "journal", "last_requests"}


@pytest.mark.parametrize(
    "name", [spec.name for spec in fields(SagaExecution) if spec.name not in APART]
)
def test_of_an_execution(name: str) -> None:
    plan = Plan("s", (PlanStep("charge", Call("t")),))
    execution = replace(SagaExecution("id", plan), **{name: OF_HEAD[name]})
    read = head_from_dict("id", json.loads(json.dumps(head_to_dict(execution))))
    assert read == {name: OF_HEAD[name]}
    assert type(read[name]) is type(OF_HEAD[name])


@pytest.mark.parametrize(
    "name", [spec.name for spec in fields(SagaStepExecution) if spec.name != "name"]
)
def test_of_a_step(name: str) -> None:
    step = SagaStepExecution("charge", **{name: OF_STEP[name]})
    read = step_from_dict(json.loads(json.dumps(record_to_dict(step))))
    assert read == step
    assert type(getattr(read, name)) is type(OF_STEP[name])
