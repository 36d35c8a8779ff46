"""What a running step may know about itself."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class SagaInfo:
    """The step that is running; or a task outside of a saga.

    Args:
        saga_id: id of the saga; ``None`` outside of one.
        saga_name: its name; empty outside of one.
        step: the step's name; empty outside of a saga.
        direction: ``"f"`` for the action, ``"c"`` for the compensation.
        attempt: 1 for the first; counts Celery's retries, the engine's and redeliveries.
        round: rises only when the step begins anew after its undo ran, or the undo anew after a
            late effect.
        idempotency_key: ``saga/step/direction/round``; equal over retries and redeliveries. Outside
            of a saga the task's id.
        forward_key: in a compensation, the key that the action had; else the same as
            ``idempotency_key``.
    """

    saga_id: str | None
    saga_name: str
    step: str
    direction: str
    attempt: int
    round: int
    idempotency_key: str
    forward_key: str


#: Set round a step's body by the participant; most bodies do not ask.
current: ContextVar[Callable[[], SagaInfo] | None] = ContextVar("celery_saga_info", default=None)


def step_info() -> SagaInfo | None:
    """The step whose body is running, the same object each time; ``None`` outside of a saga."""
    about = current.get()
    return None if about is None else about()
