"""Background jobs: done elsewhere, one after the other, and no name twice in the line."""

from __future__ import annotations

import threading

from celery_saga.core.background import BackgroundJobs
from tests.helpers import wait_for


def test_they_are_done_in_another_thread_and_in_order() -> None:
    background_jobs, done = BackgroundJobs(), []
    for number in range(10):
        background_jobs(f"s{number}", lambda n=number: done.append((n, threading.current_thread())))
    wait_for(lambda: len(done) == 10)
    assert [number for number, _ in done] == list(range(10))
    (thread,) = {thread for _, thread in done}
    assert thread is not threading.current_thread()
    assert thread.daemon


def test_a_name_waits_once() -> None:
    background_jobs, gate, done = BackgroundJobs(), threading.Event(), []
    background_jobs("first", lambda: gate.wait(30))
    for _ in range(5):
        background_jobs("same", lambda: done.append("same"))
    background_jobs("last", lambda: done.append("last"))
    gate.set()
    wait_for(lambda: "last" in done)
    assert done == ["same", "last"]
    background_jobs("same", lambda: done.append("again"))
    wait_for(lambda: "again" in done)


def test_one_that_fails_does_not_end_the_line() -> None:
    background_jobs, done = BackgroundJobs(), []

    def fail() -> None:
        raise ValueError("no")

    background_jobs("bad", fail)
    background_jobs("good", lambda: done.append("good"))
    wait_for(lambda: done == ["good"])
