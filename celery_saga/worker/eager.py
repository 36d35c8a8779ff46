"""Enclosing tasks: tasks that run the steps of an eager saga inside of them.

The worker has no request for such a step. Its claim names the enclosing task, and is valid while
the worker has that task. This holds under prefork too, where the main process cannot see a body.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from celery_saga.core.execution import Claim, StepRef
from celery_saga.runtime import Runtime

#: Id of the task that a worker runs in this context.
_enclosing: ContextVar[str] = ContextVar("celery_saga_enclosing_task", default="")


class enclosing_task:
    """A context in which a task encloses the steps that run in it; ``request`` is Celery's.

    A task that runs eagerly is itself enclosed, so it changes nothing. This is a class, not a
    generator, because every task of the app enters it.
    """

    __slots__ = ("_id", "_token")

    def __init__(self, request: Any) -> None:
        self._id: str | None = None if request.is_eager else request.id or ""

    def __enter__(self) -> None:
        if self._id is not None:
            self._token = _enclosing.set(self._id)

    def __exit__(self, *error: object) -> None:
        if self._id is not None:
            _enclosing.reset(self._token)


def new_claim(runtime: Runtime, request: Any, ref: StepRef) -> Claim:
    """Make a claim for a delivery of ``ref`` in this process."""
    token, instance, retries = runtime.token(ref), runtime.instance, request.retries or 0
    if not request.is_eager:
        return Claim(token, instance, retries, node=request.hostname or "")
    if enclosing := _enclosing.get():
        node = request.hostname or ""
        return Claim(token, instance, retries, enclosing_task=enclosing, node=node)
    # No task encloses it, so its worker, if this is one, cannot see when it has ended. Like the
    # claim of any other client, it does not expire.
    return Claim(token, f"client-{instance.removeprefix('client-')}", retries)
