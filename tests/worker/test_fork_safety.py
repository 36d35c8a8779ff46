"""A process that is forked while another thread is busy does not inherit that thread's locks."""

from __future__ import annotations

import array
import fcntl
import logging
import os
import signal
import termios
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celery_saga.worker import fork_safety
from tests.helpers import wait_for

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")


class Log:
    """A logger whose stream is a pipe that is not read yet."""

    def __init__(self) -> None:
        self.end, write = os.pipe()
        self.stream = open(write, "w")  # noqa: SIM115 - closed by the fixture
        self.log = logging.Logger("forks")
        self.log.addHandler(logging.StreamHandler(self.stream))

    def is_full(self) -> bool:
        waiting = array.array("i", [0])
        fcntl.ioctl(self.end, termios.FIONREAD, waiting)
        return waiting[0] >= 65536

    def read_all(self) -> None:
        while os.read(self.end, 65536):
            pass


@pytest.fixture
def pipe() -> Iterator[Log]:
    found = Log()
    yield found
    threading.Thread(target=found.read_all, daemon=True).start()  # what is left is written first
    found.stream.close()


def exit_of_a_child_that_logs(log: logging.Logger) -> int:
    """Its exit status; SIGALRM, if it hangs."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # one that waits for a lock runs no handler
        signal.alarm(10)
        log.error("a child")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_can_log_that_was_forked_while_a_thread_did(pipe: Log) -> None:
    fork_safety.unforked_log(pipe.log)
    fork_safety.unforked_log(pipe.log)  # changes nothing
    thread = threading.Thread(target=pipe.log.error, args=["x" * 200_000], daemon=True)
    thread.start()
    wait_for(pipe.is_full)

    def read_once_a_fork_waits() -> None:
        wait_for(lambda: fork_safety._gate._forking)
        pipe.read_all()

    threading.Thread(target=read_once_a_fork_waits, daemon=True).start()

    assert exit_of_a_child_that_logs(pipe.log) == 0


def test_a_call_in_a_call_is_let_through_while_a_fork_waits() -> None:
    """The fork waits for the outer one."""
    entered, ended = threading.Event(), threading.Event()

    class Inner:
        def call(self) -> None:
            entered.set()
            wait_for(lambda: fork_safety._gate._forking)
            fork_safety.Unforked(Other()).call()
            ended.set()

    class Other:
        def call(self) -> None: ...

    outer = fork_safety.Unforked(Inner())
    thread = threading.Thread(target=lambda: outer.call())  # looked up in that thread
    thread.start()
    assert entered.wait(30)
    seen: list[Any] = []
    fork_safety._gate.close()
    try:
        seen.append(ended.is_set())
    finally:
        fork_safety._gate.open()
    thread.join(30)
    assert seen == [True]
