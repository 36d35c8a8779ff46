"""Servers, workers and sagas of a run; all end with us."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.fleet import PROJECT, BenchmarkError
from benchmarks.recovery.app import Installation, Place
from celery_saga import Saga, SagaResult
from celery_saga.testing.embedded import EmbeddedValkey
from celery_saga.testing.processes import ManagedProcess

#: Seconds after which what is awaited has failed.
TIMEOUT = 180.0
#: Seconds between two checks of something that is awaited; no measured time depends on it.
LOOK = 0.02


def until(what: str, condition: Callable[[], Any], timeout: float = TIMEOUT) -> Any:
    """The condition's first true value.

    Raises:
        BenchmarkError: it stays false.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what}: not within {timeout:g} seconds")
        time.sleep(LOOK)
    return value


class Worker:
    """A worker process, its pool's processes in its group."""

    _numbers = itertools.count(1)

    def __init__(self, stage: Stage, queues: str, options: tuple[str, ...]) -> None:
        self._notes = stage.installation.notes
        self.name = f"w{next(self._numbers)}@recovery"
        self.log = stage.folder / f"{self.name}.log"
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.recovery.worker", "worker"]
        command += ["-n", self.name, "-Q", queues, "--loglevel", "INFO"]
        command += ["--without-gossip", "--without-mingle", *options]
        env = {**os.environ, **stage.place.environment()}
        self.process = ManagedProcess(command, env=env, cwd=PROJECT, log=self.log)

    def ready(self) -> float:
        """When it was ready to take messages, which is waited for."""
        return float(
            until(f"{self.name} is ready: {self.log}", lambda: self._notes.of(self.name))[0]["at"]
        )

    @property
    def is_ready(self) -> bool:
        """Whether it takes messages."""
        return self.process.alive and bool(self._notes.of(self.name))

    def kill(self) -> float:
        """SIGKILL for all of it; when that was."""
        at = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return at


class Stage:
    """An installation with its servers and workers; use it in ``with``.

    Args:
        apart: whether the store is a server of its own.
        settings: of Celery's and ours, besides the defaults.
    """

    def __init__(self, apart: bool = False, **settings: Any) -> None:
        self._apart, self._settings = apart, settings
        self._stack = contextlib.ExitStack()
        self._queues = itertools.count(1)
        self.workers: list[Worker] = []

    def __enter__(self) -> Stage:
        with contextlib.ExitStack() as stack:
            folder = tempfile.TemporaryDirectory(prefix="saga-recovery-")
            self.folder = Path(stack.enter_context(folder))
            self.broker = stack.enter_context(EmbeddedValkey(append_only=self._apart))
            self.store = self.broker
            if self._apart:
                self.store = stack.enter_context(EmbeddedValkey(append_only=True))
            notes = stack.enter_context(EmbeddedValkey())
            self.place = Place(
                broker=self.broker.url(),
                notes=notes.url(),
                store=self.store.url() if self._apart else "",
                settings=json.dumps(self._settings),
            )
            self.installation = Installation(self.place)
            self.notes, self.app = self.installation.notes, self.installation.app
            stack.callback(self.app.close)
            stack.callback(self._end_workers)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.process.stop()

    def queue(self) -> str:
        """The name of a new queue."""
        return f"queue-{next(self._queues)}"

    def worker(self, queues: str, *options: str) -> Worker:
        """A new worker, which is not waited for."""
        self.workers.append(Worker(self, queues, options))
        return self.workers[-1]

    def serve(self, worker: Worker, queue: str) -> None:
        """Let a worker that runs have one more queue."""
        self.app.control.add_consumer(queue, destination=[worker.name])

    def saga(self, *steps: tuple[str, ...], name: str = "recovery") -> Saga:
        """A saga of steps with a compensation each.

        Args:
            steps: their name, ``late`` or ``early``, their queue, and that of their compensation if
                it is another.
        """
        saga = Saga(name, app=self.app)
        for step, ack, queue, *other in steps:
            task = getattr(self.installation, ack)
            compensation_queue = other[0] if other else queue
            saga.local_step(task, name=step, queue=queue).on_failure(task, queue=compensation_queue)
        return saga.commit()

    def began(self, result: SagaResult) -> list[dict[str, Any]]:
        """The notes of the bodies of a saga that began, in order."""
        return [note for note in self.notes.of(result.id) if note["what"] == "began"]

    def held(self, result: SagaResult, count: int) -> dict[str, Any]:
        """The note of the ``count``th body, which is waited for."""
        what = f"body {count} of {result.id}"
        notes: list[dict[str, Any]] = until(
            what, lambda: len(found := self.began(result)) >= count and found
        )
        return notes[count - 1]

    def bodies(self, result: SagaResult) -> str:
        """All bodies of a saga that began: a letter a step, a capital one for its compensation."""
        return "".join(
            note["step"].upper() if note["direction"] == "c" else note["step"]
            for note in self.began(result)
        )
