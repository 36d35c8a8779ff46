"""pytest-celery's nodes as processes of this machine: no Docker engine, no image, no network.

pytest-celery wraps a container object of the Docker SDK in a :class:`CeleryTestContainer`, and
that in a node. It only asks that object for a few members, and so a local process that has these
can take its place. Each process ends with the test's, however that ends: see
:mod:`celery_saga.testing.processes`.
"""

from __future__ import annotations

import gc
import os
import signal as signals
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from celery.result import AsyncResult
from pytest_celery import (
    CeleryTestContainer,
    CeleryWorkerContainer,
    RedisContainer,
    RedisTestBackend,
)

from celery_saga.testing.embedded import EmbeddedValkey
from celery_saga.testing.processes import ManagedProcess
from tests.helpers import wait_for

ROOT = Path(__file__).resolve().parents[2]


class LocalProcess:
    """What pytest-celery asks of a container, by a process group.

    Args:
        name: of the node.
    """

    def __init__(self, name: str) -> None:
        self.id = uuid.uuid4().hex
        self.name = f"{name}-{self.id[:6]}"
        #: Where in its log the newest start begins.
        self.begin = 0

    @property
    def alive(self) -> bool:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        raise NotImplementedError

    @property
    def log(self) -> Path:
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    @property
    def status(self) -> str:
        return "running" if self.alive else "exited"

    @property
    def attrs(self) -> dict[str, Any]:
        return {
            "Config": {"Hostname": self.id[:12], "Env": []},
            "HostConfig": {"PortBindings": {}},
            "NetworkSettings": {"Networks": {}, "Ports": {}},
        }

    def reload(self) -> None:
        """The status is asked for each time."""

    def kill(self, signal: str | int | None = None) -> None:
        """As in a container: SIGKILL takes all of it along, and so does SIGSTOP."""
        number = signals.Signals[signal] if isinstance(signal, str) else signal or signals.SIGKILL
        alone = number not in (signals.SIGKILL, signals.SIGSTOP, signals.SIGCONT)
        if self.alive:
            (os.kill if alone else os.killpg)(self.pid, number)
        if number == signals.SIGKILL:
            wait_for(lambda: not self.alive)

    def restart(self, timeout: float = 10) -> None:
        self.stop()
        self.begin = self.log.stat().st_size
        self.start()

    def logs(self) -> bytes:
        return self.log.read_bytes() if self.log.exists() else b""

    def tree(self) -> list[psutil.Process]:
        """The main process and its children."""
        main = psutil.Process(self.pid)
        return [main, *main.children(recursive=True)]


class ServerProcess(LocalProcess):
    """A Valkey server that keeps every acknowledged write through a SIGKILL."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.server = EmbeddedValkey(append_only=True)
        self.start()

    @property
    def alive(self) -> bool:
        return self.server.alive

    @property
    def pid(self) -> int:
        return self.server.pid

    @property
    def log(self) -> Path:
        return self.server.folder / "valkey.log"

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        """Its folder stays until :meth:`remove`."""
        if self.alive:
            self.kill()

    def remove(self) -> None:
        self.server.stop()


class WorkerProcess(LocalProcess):
    """A worker of the real command line, in a folder with the files of its volume."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        content: Mapping[str, bytes],
        folder: Path,
    ) -> None:
        super().__init__(name)
        for file, data in content.items():
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        # Docker's %h is the beginning of the container's id.
        self._command = [part.replace("%h", self.id[:12]) for part in command]
        path = os.pathsep.join([str(folder), str(ROOT)])
        self._env = {**os.environ, **env, "PYTHONPATH": path}
        self._folder = folder
        self.start()

    def start(self) -> None:
        self._process = ManagedProcess(
            [sys.executable, "-m", *self._command],
            env=self._env,
            cwd=self._folder,
            log=self.log,
        )

    @property
    def alive(self) -> bool:
        return self._process.alive

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._folder / "worker.log"

    def stop(self) -> None:
        self._process.stop()

    def remove(self) -> None:
        self._process.kill()
        self._process.stop()


class LocalContainer(CeleryTestContainer):
    """pytest-celery's wrapper round a local process."""

    _container: Any

    @property
    def process(self) -> Any:
        return self._container

    def ready(self) -> bool:
        """Wait for the prompt of the newest start; upstream is content with one of any start."""
        prompt = (self.ready_prompt or "").encode()
        wait_for(
            lambda: prompt in self.process.logs()[self.process.begin :] or not self.process.alive,
            40,
            description=f"{self.name} is ready",
        )
        assert self.process.alive, self.logs()
        return True

    def restart(self, timeout: int = 10) -> None:
        self.process.restart(timeout)
        self.ready()

    def teardown(self) -> None:
        self.process.remove()
        super().teardown()


class LocalValkey(LocalContainer, RedisContainer):
    """pytest-celery's Redis, on the server that comes with the extra ``embedded``."""

    @property
    def url(self) -> str:
        return str(self.process.server.url())

    @property
    def host_url(self) -> str:
        return self.url

    @property
    def port(self) -> int:
        return int(self.process.server.port)


class LocalWorker(LocalContainer, CeleryWorkerContainer):
    """pytest-celery's worker, with this project's app."""

    @classmethod
    def app_module(cls) -> Any:
        from tests.chaos import app

        return app

    @classmethod
    def tasks_modules(cls) -> set[Any]:
        from tests.chaos import steps

        return {steps, *super().tasks_modules()}


class LocalBackend(RedisTestBackend):  # type: ignore[misc]
    """The store's node for pytest-celery."""

    def teardown(self) -> None:
        """As upstream's, which asks each object of the process for its class: settings of Django's
        that are not configured raise at that.
        """
        for each in gc.get_objects():
            if issubclass(type(each), AsyncResult):
                each.backend = None
        super(RedisTestBackend, self).teardown()
