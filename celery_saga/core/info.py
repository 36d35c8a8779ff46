"""What a running step can read about itself."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """Why a saga is rolled back.

    Args:
        step: the step that failed; empty: none did, the saga was cancelled between two steps.
        error: type and text of the error.
        attempt: the number of the attempt that failed; 0: it is not known, or no attempt failed.
    """

    step: str
    error: str
    attempt: int = 0


@dataclass(frozen=True)
class SagaInfo:
    """The running step, or a task outside of a saga.

    Args:
        saga_id: id of the saga; ``None`` outside of one.
        saga_name: its name; empty outside of one.
        step: the step's name; empty outside of a saga.
        direction: ``"f"`` for the action, ``"c"`` for the compensation.
        attempt: 1 for the first; counts Celery's retries, the engine's and redeliveries.
        round: increases only when the step starts again after its compensation ran, or the
            compensation after a late effect.
        idempotency_key: ``saga/step/direction/round``; equal over retries and redeliveries. Outside
            of a saga the task's id.
        forward_key: in a compensation or a commit task, the key that the action had; else the same
            as ``idempotency_key``.
        cause: in a compensation, why the saga is rolled back; ``None`` in an action.
    """

    saga_id: str | None
    saga_name: str
    step: str
    direction: str
    attempt: int
    round: int
    idempotency_key: str
    forward_key: str
    cause: Cause | None = None


#: Set around a step's body by the step runner; most bodies do not read it.
current: ContextVar[Callable[[], SagaInfo] | None] = ContextVar("celery_saga_info", default=None)


def step_info() -> SagaInfo | None:
    """Return the running step, the same object each time; ``None`` outside of a saga."""
    about = current.get()
    return None if about is None else about()
