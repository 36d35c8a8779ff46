"""Runs sagas from asynchronous code: the Minos framework's ``await manager.run(...)``.

A store's wait blocks a thread. The event loop has few threads of its own, and a start must not
queue behind waits. So waiting has its own threads, and coroutines that are more than these threads
take turns.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from celery.exceptions import TimeoutError
from celery.result import assert_will_not_block  # type: ignore[attr-defined]

from celery_saga.core.execution import SagaExecution, SagaStatus
from celery_saga.core.ports import Store
from celery_saga.errors import DefinitionError, SagaExecutionNotFoundException
from celery_saga.messaging.outcome import failure_of
from celery_saga.runtime import Runtime
from celery_saga.saga import Saga, start_request, started

#: How many threads wait.
WAITERS = 32

#: Seconds of one turn: the longest time for which a thread outlives its cancelled coroutine.
TURN = 2.0

_waiting: set[object] = set()
_threads: ThreadPoolExecutor


def _make_threads() -> None:
    global _threads
    _threads = ThreadPoolExecutor(WAITERS, thread_name_prefix="celery-saga-wait")
    _waiting.clear()


_make_threads()
os.register_at_fork(after_in_child=_make_threads)  # a fork does not copy threads


async def run(
    runtime: Runtime,
    definition: Any,
    context: Any,
    *,
    respond: Callable[[Any], object],
    pause_on_disk: bool = False,
    raise_on_error: bool = True,
    timeout: float | None = None,
    response: Any = None,
    **options: Any,
) -> SagaExecution:
    """Start a saga and wait for its end; see :meth:`celery_saga.SagaManager.run`.

    Args:
        respond: takes ``response``.
        pause_on_disk: return, and raise nothing, as soon as the saga is saved. Until it is settled
            the returned execution shows as paused; the saga itself continues.
        raise_on_error: raise if the saga did not complete; else return how it ended.
        timeout: seconds to wait.
        response: a :class:`SagaResponse` with ``uuid`` and ``token``: it is the reply to a request
            of that saga, which is waited for then; ``definition`` and ``context`` are not used. One
            that is not awaited (any more), or has another token, changes nothing.
        options: see :func:`_start_of`.
    """
    begin = _start_of(runtime, definition, context, response, **options)
    if not pause_on_disk:
        assert_will_not_block()
    if response is not None:
        await asyncio.to_thread(respond, response)
    execution = await asyncio.to_thread(begin)
    if pause_on_disk:
        return execution if execution.settled else replace(execution, status=SagaStatus.PAUSED)
    if not execution.settled:
        execution = await settled(runtime.store, execution.saga_id, timeout)
    if raise_on_error and execution.status is not SagaStatus.COMPLETED:
        raise failure_of(execution)
    return execution


def _start_of(
    runtime: Runtime,
    definition: Any,
    context: Any,
    response: Any,
    *,
    user: Any = None,
    autocommit: bool = True,
    **options: Any,
) -> Callable[[], SagaExecution]:
    """Return a function that starts a saga, or that loads the one of a response.

    Args:
        user: is sent as the header ``user`` with all messages of the saga.
        autocommit: must be True; a second phase does not exist here.
        options: those of :meth:`Saga.apply_async`.
    """
    if autocommit is not True:
        raise ValueError(
            "autocommit: expected True: each step takes effect when it runs and is compensated if "
            "the saga fails, there is nothing left to commit or reject"
        )
    if response is not None:
        return partial(runtime.orchestrator.load, str(getattr(response, "uuid", "")))
    saga = _runnable(runtime, definition)
    if user is not None:
        options["headers"] = {**(options.get("headers") or {}), "user": str(user)}

    def begin() -> SagaExecution:
        return started(start_request(saga, runtime.app, context, **options)).execution

    return begin


def _runnable(runtime: Runtime, definition: Any) -> Saga[Any]:
    if definition is None:
        raise ValueError("run: expected definition= or response=, found neither")
    if not isinstance(definition, Saga):
        raise TypeError(f"definition: expected a Saga, found a {type(definition).__name__}")
    own = definition.own_app()
    if own is not None and own is not runtime.app:
        raise DefinitionError(
            f"saga {definition.name!r} runs on the app {own.main!r}, and this is the manager of "
            f"{runtime.app.main!r}: run it by SagaManager of its own app, or with its delay()"
        )
    return definition


async def settled(store: Store, saga_id: str, timeout: float | None = None) -> SagaExecution:
    """Wait until an execution is settled, and return it. Cancelling this has no effect on the saga.

    Args:
        timeout: seconds; ``None``: no limit.

    Raises:
        celery.exceptions.TimeoutError: it is not settled in time.
        SagaExecutionNotFoundException: no saga has this id.
        StoreUnavailable: the store is unavailable.
    """
    loop, me = asyncio.get_running_loop(), object()
    stop_waiting_at = None if timeout is None else time.monotonic() + timeout
    _waiting.add(me)
    try:
        while True:
            turn = TURN / (1 + len(_waiting) // (WAITERS + 1))
            left = turn if stop_waiting_at is None else max(0.0, stop_waiting_at - time.monotonic())
            found = await loop.run_in_executor(_threads, store.wait, saga_id, min(turn, left))
            if found is None:
                raise SagaExecutionNotFoundException(saga_id)
            if found.settled:
                return found
            if stop_waiting_at is not None and time.monotonic() >= stop_waiting_at:
                raise TimeoutError(f"saga {saga_id} is not settled after {timeout:g} seconds")
    finally:
        _waiting.discard(me)
