"""The outcome of a saga in Celery's terms: state, result and error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from celery import states
from celery.app.task import Context
from kombu.utils import json as kombu_json

from celery_saga.core.decide.repair import Obstacle, obstacle_of
from celery_saga.core.execution import SagaExecution, SagaStatus
from celery_saga.core.failures import cause_of
from celery_saga.errors import SagaCompensated, SagaFailedExecutionException, SagaStuck
from celery_saga.messaging.callbacks import callbacks_at
from celery_saga.messaging.headers import as_sent

#: The engine task that starts a saga; its id is the saga's.
START = "celery_saga.start"

#: A saga's status as the state of a Celery task.
STATES = {
    SagaStatus.CREATED: states.PENDING,
    SagaStatus.RUNNING: states.STARTED,
    SagaStatus.PAUSED: states.STARTED,
    SagaStatus.COMPENSATING: states.STARTED,
    SagaStatus.COMPLETED: states.SUCCESS,
    SagaStatus.COMPENSATED: states.FAILURE,
    SagaStatus.STUCK: states.FAILURE,
}


def progress_of(execution: SagaExecution) -> dict[str, Any]:
    """Return the result of a saga that has not ended: ``saga``, ``status``, ``steps``."""
    steps = {step.name: step.status.value for step in execution.steps}
    return {"saga": execution.name, "status": execution.status.value, "steps": steps}


def result_of(execution: SagaExecution) -> Any:
    """Return the final context or the error; before the end :func:`progress_of`."""
    if not execution.settled:
        return progress_of(execution)
    completed = execution.status is SagaStatus.COMPLETED
    return execution.context if completed else failure_of(execution)


def failure_of(execution: SagaExecution) -> SagaFailedExecutionException:
    """Return the error for how a settled saga ended; its cause is the error of the step."""
    obstacle = obstacle_of(execution) or Obstacle("", "")
    kind = SagaCompensated if execution.status is SagaStatus.COMPENSATED else SagaStuck
    error = kind(execution.saga_id, obstacle.step, obstacle.cause)
    error.__cause__ = cause_of(execution)
    return error


def request_of(execution: SagaExecution) -> Any:
    """Return the request of the task that started the saga, or an equivalent one."""
    callbacks = callbacks_at(execution.callbacks or {}, execution.status.value)
    kept: Mapping[str, Any] = kombu_json.loads(json.dumps(callbacks))
    saga_id = execution.saga_id
    return Context(
        {
            **kept,
            "id": saga_id,
            "task": START,
            "root_id": kept.get("root_id") or execution.root,
            "args": [],
            "kwargs": {"saga": execution.name},
            "headers": as_sent(execution.headers),
            "called_directly": False,
            "delivery_info": {"priority": kept.get("priority")},
        }
    )
