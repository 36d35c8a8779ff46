"""Bounds the time of a call: one without a reply must not block the doctor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class NoAnswer(Exception):
    """A call did not return in time."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of ``call``; it is not waited for longer than ``seconds``.

    Raises:
        NoAnswer: it took longer.
        Exception: what ``call`` raised.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["answer"] = call()
        except BaseException as error:
            outcome["error"] = error

    # A daemon: a thread that waits for a socket must not keep the process from ending.
    thread = threading.Thread(target=run, name="celery-saga-doctor", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise NoAnswer(f"no answer within {seconds:g} seconds")
    if "error" in outcome:
        raise outcome["error"]
    answer: T = outcome["answer"]
    return answer
