"""Tasks that run steps inside of themselves: those of an eager saga.

The worker has no request for such a step. Its claim names the task round it, its *host*, and stands
while the worker has that one: also under prefork, where the main process sees nothing of a body.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from celery_saga.core.execution import Claim, StepRef
from celery_saga.runtime import Runtime

#: Between a token and the host's id; no instance and no ref has it.
_INSIDE = "@"

#: Id of the task that a worker runs in this call.
_host: ContextVar[str] = ContextVar("celery_saga_host", default="")


class inside:
    """Run a task; ``request`` is Celery's. One that runs eagerly is itself inside of another.

    A class, and no generator: it is round every task of the app.
    """

    __slots__ = ("_id", "_token")

    def __init__(self, request: Any) -> None:
        self._id: str | None = None if request.is_eager else request.id or ""

    def __enter__(self) -> None:
        if self._id is not None:
            self._token = _host.set(self._id)

    def __exit__(self, *error: object) -> None:
        if self._id is not None:
            _host.reset(self._token)


def new_claim(runtime: Runtime, request: Any, ref: StepRef) -> Claim:
    """A claim for a delivery of ``ref`` that this process has."""
    token, instance, retries = runtime.token(ref), runtime.instance, request.retries or 0
    if not request.is_eager:
        return Claim(token, instance, retries)
    if host := _host.get():
        return Claim(f"{token}{_INSIDE}{host}", instance, retries)
    # No task is round it, so its worker, if it is one, cannot tell when it has ended. As in any
    # other client nobody judges it.
    return Claim(token, f"client-{instance.removeprefix('client-')}", retries)


def host_of(claim: Claim | None) -> str:
    """Id of the task inside of which a claim's step runs; empty: it runs by itself."""
    return "" if claim is None else claim.token.partition(_INSIDE)[2]
