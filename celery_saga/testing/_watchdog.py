"""Run one command, and end it as soon as the process that started it ends, in whatever way.

::

    python -I _watchdog.py [--grace SECONDS] [--remove DIRECTORY] -- COMMAND [ARGUMENT ...]

A program of its own, with nothing but the standard library: :mod:`celery_saga.testing.processes` is
its other half. The two share two pipes.

Standard input
    The starter holds the other end, which closes when the starter lets go or dies; no signal can
    prevent that. The command then gets SIGTERM, and after the grace (seconds, default 5) its whole
    process group gets SIGKILL. The directory is removed last. One byte ``k`` before the end of file
    means "keep the directory". SIGTERM or SIGHUP to the watchdog does the same.

Standard output
    ``pid N`` once the command runs, or ``error N TEXT`` (an ``errno``) if it could not be started;
    ``exit N`` when it has ended, with the negative signal number if a signal ended it.

The command gets an empty standard input, its output goes to standard error, and it leads a session
of its own. What is left of its process group when it ends is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from types import FrameType

KEEP = b"k"


def _act_as_if_let_go(signum: int, frame: FrameType | None) -> None:
    # The interrupted read of standard input is tried again, and finds the end of this file.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--grace", type=float, default=5.0, help="seconds from SIGTERM to SIGKILL")
    parser.add_argument("--remove", action="append", default=[], help="directory to remove last")
    parser.add_argument("command", nargs="+", help="after --, the program and its arguments")
    return parser.parse_args()


def _report(line: str) -> None:
    # The starter may have ended already: then the report has no reader.
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _reap(child: subprocess.Popen[bytes]) -> None:
    code = child.wait()
    _kill_group(child.pid)
    _report(f"exit {code}")


def _wait_for_the_starter() -> bool:
    """Block until the starter lets go; true if it wants the directory kept."""
    said = b""
    while got := os.read(0, 64):
        said += got
    return KEEP in said


def _stop(child: subprocess.Popen[bytes], reaper: threading.Thread, grace: float) -> None:
    child.terminate()
    reaper.join(grace)
    if reaper.is_alive():
        _kill_group(child.pid)
        reaper.join()


def main() -> int:
    """Run the command until it ends and the starter has let go."""
    arguments = _arguments()
    # Handlers, not SIG_IGN: ignored signals would stay ignored in the command.
    signal.signal(signal.SIGINT, lambda signum, frame: None)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _act_as_if_let_go)
    try:
        child = subprocess.Popen(
            arguments.command, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
        )
    except OSError as error:
        _report(f"error {error.errno} {error.strerror}")
        return 127
    _report(f"pid {child.pid}")
    reaper = threading.Thread(target=_reap, args=(child,), daemon=True)
    reaper.start()
    keep = _wait_for_the_starter()
    _stop(child, reaper, arguments.grace)
    if not keep:
        for directory in arguments.remove:
            shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
