"""Managed processes: they end with their starter, and only as they should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from celery_saga.testing.processes import ManagedProcess
from tests.helpers import has_exited, wait_for

pytestmark = pytest.mark.worker

#: A command that ignores SIGTERM, with a child of its own that does the same.
STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print(child, flush=True)
signal.pause()
"""


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


class TestManagedProcess:
    def test_logs_and_reports_the_exit_code(self, tmp_path):
        log = tmp_path / "log"
        program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"

        process = ManagedProcess([sys.executable, "-c", program], log=log)

        assert process.wait(30) == 3
        assert not process.alive
        assert sorted(lines_of(log)) == ["err", "out"]

    def test_pid_is_that_of_the_command(self, tmp_path):
        log = tmp_path / "log"
        program = "import os; print(os.getpid(), os.getpgrp(), os.getcwd(), os.environ['NAME'])"

        with ManagedProcess(
            [sys.executable, "-c", program],
            log=log,
            cwd=tmp_path,
            env={**os.environ, "NAME": "value"},
        ) as process:
            process.wait(30)

        assert lines_of(log) == [f"{process.pid} {process.pid} {tmp_path} value"]

    def test_wait_ends_in_time(self):
        with ManagedProcess(["sleep", "60"]) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01)

            assert process.alive

    def test_terminate_reaches_the_command(self):
        with ManagedProcess(["sleep", "60"]) as process:
            process.terminate()

            assert process.wait(30) == -signal.SIGTERM

    def test_the_command_can_be_interrupted(self):
        with ManagedProcess(["sleep", "60"]) as process:
            process.send_signal(signal.SIGINT)

            assert process.wait(30) == -signal.SIGINT

    def test_kill_ends_the_whole_group(self, tmp_path):
        log = tmp_path / "log"
        process = ManagedProcess([sys.executable, "-c", STUBBORN], log=log)
        child = int(wait_for(lambda: lines_of(log))[0])

        process.kill()

        assert process.returncode == -signal.SIGKILL
        wait_for(lambda: has_exited(child))
        process.kill()
        process.terminate()

    def test_stop_kills_after_the_grace(self, tmp_path):
        log = tmp_path / "log"
        process = ManagedProcess([sys.executable, "-c", STUBBORN], log=log, grace=0.05)
        child = int(wait_for(lambda: lines_of(log))[0])

        assert process.stop() == -signal.SIGKILL

        assert has_exited(process.pid)
        wait_for(lambda: has_exited(child))

    def test_what_the_command_leaves_behind_is_killed(self, tmp_path):
        log = tmp_path / "log"
        program = STUBBORN.replace("signal.pause()", "child or signal.pause()")
        process = ManagedProcess([sys.executable, "-c", program], log=log)

        assert process.wait(30) == 0

        wait_for(lambda: has_exited(int(lines_of(log)[0])))

    def test_removes_the_folder_only_when_let_go(self, tmp_path):
        kept, removed = tmp_path / "kept", tmp_path / "removed"
        for folder in (kept, removed):
            folder.mkdir()
        first = ManagedProcess(["true"], remove=kept)
        second = ManagedProcess(["true"], remove=removed)
        first.wait(30)
        second.wait(30)
        assert removed.exists()

        first.stop(keep=True)
        second.stop()

        assert kept.exists()
        assert not removed.exists()

    def test_ends_the_command_when_the_watchdog_is_terminated(self, tmp_path):
        process = ManagedProcess(["sleep", "60"])
        watchdog = psutil.Process(process.pid).ppid()

        os.kill(watchdog, signal.SIGTERM)

        assert process.wait(30) == -signal.SIGTERM

    def test_ends_the_command_when_the_watchdog_is_killed(self):
        process = ManagedProcess(["sleep", "60"])
        os.kill(psutil.Process(process.pid).ppid(), signal.SIGKILL)

        process.wait(30)

        wait_for(lambda: has_exited(process.pid))

    def test_reports_a_command_that_does_not_exist(self):
        with pytest.raises(FileNotFoundError, match="no-such-program"):
            ManagedProcess(["no-such-program"])
