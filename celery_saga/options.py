"""The options of a step, as type checkers see them; nothing of this is looked at when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from celery_saga.operations import SagaOperation
    from celery_saga.steps import SagaStep

    #: What a step calls.
    Target: TypeAlias = Callable[..., Any] | str | SagaOperation

    #: What a saga takes as a step.
    Step: TypeAlias = Target | SagaStep


class CallOptions(TypedDict, total=False):
    """How a task is called: a step's, or a compensation's.

    Args:
        inputs: ``{"parameter": "key"}`` renames on top of the parameters' own names, a list is
            complete; a tuple of keys is a path, ``Const(value)`` a literal.
        returns: the key under which the result is kept; ``False``: nowhere.
        context: whether the task takes the whole context.
        max_attempts: how often the engine runs it.
        retry_backoff: seconds before the engine's second attempt; they double.
        retry_backoff_max: seconds that they come to at most.
        queue, exchange, routing_key, priority, expires, compression: Celery's, of the message.
        time_limit, soft_time_limit: Celery's, in seconds.
    """

    inputs: Mapping[str, Any] | Sequence[str] | None
    returns: str | Literal[False] | None
    context: bool | None
    max_attempts: int | None
    retry_backoff: float | None
    retry_backoff_max: float | None
    queue: str
    exchange: str
    routing_key: str
    priority: int
    expires: float | datetime
    compression: str
    time_limit: float
    soft_time_limit: float


class StepOptions(CallOptions, total=False):
    """What is said about a step.

    Args:
        name: the step's name; by default its task's.
        pivot: the point of no return.
        retriable: the engine retries it.
        on_lost: what becomes of it when its worker is lost; by default as ``acks_late`` says.
        read_only: it leaves nothing behind, and is run again when it is lost.
        compensate_on_failure: undo it as well when it failed itself: always, or for exceptions.
    """

    name: str | None
    pivot: bool | None
    retriable: bool | None
    on_lost: Literal["rerun", "undo"] | None
    read_only: bool | None
    compensate_on_failure: bool | type[BaseException] | Sequence[type[BaseException]]


class PairedOptions(StepOptions, total=False):
    """What is said about a step, its compensation included."""

    compensation: Target | None


class LocalOptions(PairedOptions, total=False):
    """All that is said about a step, constants for its task included."""

    parameters: Mapping[str, Any] | None
