"""The bodies of tasks: what they read about themselves, and how coroutines are run."""

from __future__ import annotations

import asyncio
import inspect
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any
from weakref import WeakKeyDictionary

from celery import _state

from celery_saga.core.info import SagaInfo, step_info

#: The keys of tasks that are called as functions and have no id.
_called: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def saga_info() -> SagaInfo:
    """Return the step whose body is running, the same object each time.

    In a task outside of a saga ``saga_id`` is None, and the keys are the task's id, which is equal
    over its retries and redeliveries. So a task that reads its key can be called by ``.delay()``
    too. A task that is called as a function gets a key for that call.

    Raises:
        RuntimeError: no task runs in this thread.
    """
    return step_info() or _outside()


def _outside() -> SagaInfo:
    requests = _requests()
    if not requests:
        raise RuntimeError(
            "saga_info(): no task runs in this thread; call it in the body of a task, and pass "
            "its values to the thread"
        )
    # A task that another task calls as a function is a part of that other task.
    request = next((each for each in requests if each.id), requests[0])
    key = str(request.id or _called.setdefault(request, str(uuid.uuid4())))
    return SagaInfo(
        saga_id=None,
        saga_name="",
        step="",
        direction="f",
        attempt=1 + (request.retries or 0),
        round=0,
        idempotency_key=key,
        forward_key=key,
    )


def _requests() -> list[Any]:
    """The requests of the running tasks, the innermost first."""
    tasks: Any = _state._task_stack  # type: ignore[attr-defined]
    return [
        request
        for task in reversed(tasks.stack or ())
        for request in reversed(task.request_stack.stack or ())
    ]


def finished(result: Any) -> Any:
    """Return the result; the result of a coroutine function is awaited here."""
    if not inspect.isawaitable(result):
        return result
    context, coroutine = copy_context(), _awaited(result)

    def run() -> Any:
        return context.run(asyncio.run, coroutine)

    if not _loop_is_running():
        return run()
    # A greenlet pool, whose greenlets share one thread, or an eager call from asynchronous code.
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return sys.modules["gevent"].get_hub().threadpool.apply(run)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _awaited(result: Any) -> Any:
    return await result
