"""The worker processes of the example: started, killed and started again as an operator would."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType

from celery import Celery

from celery_saga.testing.processes import ManagedProcess

#: The folder from which ``example_project`` can be imported.
PROJECT = Path(__file__).resolve().parents[1]
#: Seconds that a worker has to answer its first ping.
START_TIMEOUT = 30.0
#: Lines of each worker's log that are shown when something went wrong.
LOG_LINES = 25


class Workers:
    """Real ``celery worker`` processes, each with two pool processes, named ``shop1``, ``shop2``...

    Args:
        app: the application, to ask the workers whether they are ready.
        folder: where the logs go; it is removed even if this process is killed, unless ``keep``.
        keep: leave the folder.
    """

    def __init__(self, app: Celery, folder: Path, *, keep: bool) -> None:
        self._app = app
        self._folder = folder
        self._keep = keep
        self._processes: dict[str, ManagedProcess] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.stop(keep=True)

    def start(self, name: str) -> None:
        """Start a worker and return once it answers.

        Raises:
            RuntimeError: it ended, or did not answer in time.
        """
        node = f"{name}@localhost"
        command = [sys.executable, "-m", "celery", "-A", "example_project.shop.celery", "worker"]
        process = ManagedProcess(
            [*command, "-c", "2", "-n", node, "--loglevel", "INFO"],
            cwd=PROJECT,
            log=self._folder / f"{name}.log",
            remove=None if self._keep else self._folder,
        )
        before = self._processes.get(name)
        self._processes[name] = process
        if before is not None:
            before.stop(keep=True)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._app.control.ping([node], timeout=0.25):
            if not process.alive or time.monotonic() > deadline:
                raise RuntimeError(f"worker {name} did not become ready")

    def pid(self, name: str) -> int:
        """The process id of a worker, which is the id of its process group."""
        return self._processes[name].pid

    def kill(self, name: str) -> None:
        """End a worker and its pool processes by SIGKILL, as the loss of its machine would."""
        self._processes[name].kill()

    def log_tail(self) -> str:
        """The last lines of all logs."""
        parts = []
        for log in sorted(self._folder.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            parts += [f"--- {log.name}", *lines]
        return "\n".join(parts)
