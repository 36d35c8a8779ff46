"""Child processes that never outlive the process that started them.

Python's own :class:`subprocess.Popen` leaves its child running when the starter is killed. Here a
small watchdog process runs between the two (:mod:`celery_saga.testing._watchdog`): it ends the
command, and removes a folder if asked to, in whatever way the starter ends: normally, by an
exception, SIGTERM or SIGKILL. Needs a POSIX system.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from celery_saga.testing import _watchdog


class ManagedProcess:
    """A command that runs in a session of its own until it ends or this object lets go of it.

    The command starts when the object is made; a ``with`` statement stops it at the end. An object
    is for one thread at a time.

    Args:
        command: the program and its arguments, as for :class:`subprocess.Popen`.
        env: the whole environment; by default this process's own.
        cwd: the folder in which the command runs; by default this process's own.
        log: a file to which the command's output is appended; by default the output goes to this
            process's standard error.
        remove: a folder that is removed once the command has ended and this process let go or died.
        grace: seconds that the command has between SIGTERM and SIGKILL when it is stopped.

    Raises:
        OSError: the command could not be started (:class:`FileNotFoundError`, ...).
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        log: str | os.PathLike[str] | None = None,
        remove: str | os.PathLike[str] | None = None,
        grace: float = 5.0,
    ) -> None:
        self.command = [os.fspath(part) for part in command]
        self._removes = remove is not None
        self._returncode: int | None = None
        self._unread = b""
        guard = [sys.executable, "-I", _watchdog.__file__, "--grace", str(grace)]
        if remove is not None:
            guard += ["--remove", os.path.abspath(remove)]
        with contextlib.ExitStack() as stack:
            output: IO[bytes] | None = stack.enter_context(Path(log).open("ab")) if log else None
            self._watchdog = subprocess.Popen(
                [*guard, "--", *self.command],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        _live.add(self)
        self._pid = self._read_pid()

    def __enter__(self) -> ManagedProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.alive else f"ended with {self._returncode}"
        return f"<{type(self).__name__} pid={self._pid} {self.command[0]!r} {state}>"

    @property
    def pid(self) -> int:
        """The process id of the command itself, which is the id of its process group too."""
        return self._pid

    @property
    def returncode(self) -> int | None:
        """The exit code, the negative number of the signal that ended it, or None while it runs."""
        self._observe(0)
        return self._returncode

    @property
    def alive(self) -> bool:
        """Whether the command still runs."""
        return self.returncode is None

    def wait(self, timeout: float | None = None) -> int:
        """Block until the command has ended and return its exit code.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        self._observe(timeout)
        if self._returncode is None:
            raise subprocess.TimeoutExpired(self.command, timeout or 0)
        return self._returncode

    def send_signal(self, signum: int) -> None:
        """Send a signal to the command alone; nothing happens if it has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signum)

    def terminate(self) -> None:
        """Send SIGTERM to the command alone and return at once."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the command's whole process group and wait until the command ends."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            self.wait()

    def stop(self, *, keep: bool = False) -> int:
        """End the command: SIGTERM, after the grace SIGKILL to its group; then remove the folder.

        Safe to call again, and after the command has ended.

        Args:
            keep: leave the folder named by ``remove`` where it is.

        Returns:
            The exit code, as in :attr:`returncode`.
        """
        self._let_go(keep=keep)
        self._observe(None)
        self._watchdog.wait()
        _close(self._watchdog.stdout)
        return -signal.SIGKILL if self._returncode is None else self._returncode

    def _read_pid(self) -> int:
        kind, _, rest = self._read_line(None).partition(b" ")
        if kind == b"pid":
            return int(rest)
        self._let_go(keep=False)
        self._watchdog.wait()
        if kind == b"error":
            number, _, text = rest.decode().partition(" ")
            raise OSError(int(number), text, self.command[0])
        raise OSError(f"the watchdog of {self.command[0]!r} ended before the command started")

    def _observe(self, timeout: float | None) -> None:
        """Take note of the command's end, for which this waits up to ``timeout`` seconds."""
        if self._returncode is not None:
            return
        try:
            line = self._read_line(timeout)
        except TimeoutError:
            return
        kind, _, code = line.partition(b" ")
        if kind == b"exit":
            self._returncode = int(code)
        else:
            # Someone killed the watchdog: then the command is ours to end.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
            self._returncode = -signal.SIGKILL
        if not self._removes:
            self._let_go(keep=True)
            self._watchdog.wait()

    def _read_line(self, timeout: float | None) -> bytes:
        """Return the watchdog's next line, or nothing at its end; TimeoutError: not yet."""
        pipe = self._watchdog.stdout
        if pipe is None or pipe.closed:
            return b""
        while b"\n" not in self._unread:
            poller = select.poll()
            poller.register(pipe, select.POLLIN)
            if not poller.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError
            got = pipe.read(256)
            if not got:
                return b""
            self._unread += got
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _let_go(self, *, keep: bool) -> None:
        pipe = self._watchdog.stdin
        if keep and pipe is not None and not pipe.closed:
            with contextlib.suppress(OSError):
                pipe.write(_watchdog.KEEP)
        _close(pipe)


def _close(pipe: IO[Any] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.close()


_live: weakref.WeakSet[ManagedProcess] = weakref.WeakSet()


def _drop_in_forked_child() -> None:
    # A fork would hold the pipe open after its parent's death: the command would then live on.
    for process in list(_live):
        process._let_go(keep=False)
        _close(process._watchdog.stdout)


os.register_at_fork(after_in_child=_drop_in_forked_child)
