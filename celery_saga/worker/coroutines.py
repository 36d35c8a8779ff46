"""Bodies that are coroutines, in pools that know none."""

from __future__ import annotations

import asyncio
import inspect
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any


def finished(result: Any) -> Any:
    """The result; that of a coroutine function is awaited here."""
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
