"""The servers and workers that have the faults: all on loopback, and all end with the process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import psutil
import redis

from benchmarks.chaos.app import BROKER, HEARTBEAT, STORE
from benchmarks.chaos.ledger import LEDGER
from celery_saga.testing.embedded import EmbeddedValkey
from celery_saga.testing.processes import ManagedProcess
from tests.worker.proxy import Proxy

#: The folder from which ``benchmarks`` can be imported.
PROJECT = Path(__file__).resolve().parents[2]

#: Seconds that the first workers have to come up.
TIMEOUT = 60.0


class ChaosError(Exception):
    """The run itself went wrong: its results do not count."""


class Worker:
    """One place for a worker, in which one instance follows another.

    Args:
        name: its node name.
        app: the module of its app.
        env: of the process.
        folder: for its log, to which all instances write.
    """

    def __init__(self, name: str, app: str, env: dict[str, str], folder: Path) -> None:
        self.name, self._app = name, app
        self.log = folder / f"{name.partition('@')[0]}.log"
        self._env = env
        self._process: ManagedProcess | None = None
        #: Whether it is stopped by SIGSTOP.
        self.stopped = False
        #: When it may have a fault again, ``time.monotonic()``.
        self.rests_until = 0.0

    def start(self) -> None:
        """Begin a new instance."""
        options = ["-P", "prefork", "-c", "2", "-n", self.name, "--loglevel", "INFO"]
        options += ["--without-gossip", "--without-mingle"]
        self._process = ManagedProcess(
            [sys.executable, "-m", "celery", "-A", self._app, "worker", *options],
            env={**os.environ, **self._env},
            cwd=PROJECT,
            log=self.log,
        )
        self.stopped = False

    @property
    def alive(self) -> bool:
        """Whether its main process runs, or is stopped."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int:
        """Of the main process of the newest instance."""
        assert self._process is not None
        return self._process.pid

    @property
    def fit(self) -> bool:
        """Whether it is up, and may have a fault."""
        rested = not self.stopped and time.monotonic() >= self.rests_until
        return rested and self.alive and bool(self.children())

    def children(self) -> list[int]:
        """The processes of its pool."""
        with contextlib.suppress(psutil.Error):
            return sorted(child.pid for child in psutil.Process(self.pid).children())
        return []

    def kill(self) -> None:
        """SIGKILL for the main process and its pool."""
        assert self._process is not None
        self._process.kill()

    def pause(self) -> None:
        """SIGSTOP for all of it."""
        self.stopped = True
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self, rest: float) -> None:
        """SIGCONT; it has no other fault for so many seconds."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGCONT)
        self.stopped, self.rests_until = False, time.monotonic() + rest

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.stop()


class Stage:
    """Servers with an append-only file that is synced at every write, and workers; use ``with``.

    Args:
        app: the module of the workers' app.
        workers: how many.
        apart: whether broker and store are a server each.
        folder: where logs stay; by default a temporary one that is removed at the end.
        heartbeat: seconds between two heartbeats of a worker, and after which a silent one counts
            as dead; by default the library's own.
    """

    def __init__(
        self,
        app: str,
        workers: int,
        apart: bool,
        folder: Path | None = None,
        heartbeat: tuple[float, float] | None = None,
    ) -> None:
        self._app, self._count, self._apart, self._folder = app, workers, apart, folder
        self.heartbeat = heartbeat
        self._stack = contextlib.ExitStack()
        self.workers: list[Worker] = []
        #: By what they are for; one server has both names.
        self.servers: dict[str, EmbeddedValkey] = {}
        self.proxies: list[Proxy] = []

    def __enter__(self) -> Stage:
        with self._stack:
            self._set_up()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _set_up(self) -> None:
        enter = self._stack.enter_context
        temporary = enter(tempfile.TemporaryDirectory(prefix="saga-chaos-"))
        self.folder = folder = self._folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger = enter(EmbeddedValkey())
        store = enter(EmbeddedValkey(append_only=True))
        broker = enter(EmbeddedValkey(append_only=True)) if self._apart else store
        self.servers = {"broker": broker, "store": store}
        for number in range(self._count):
            env = self._environment(by_proxy=number == 0)
            worker = Worker(f"chaos-{number}@localhost", self._app, env, folder)
            self._stack.callback(worker.close)
            self.workers.append(worker)
            worker.start()
        self._wait_until_ready()

    def _environment(self, by_proxy: bool) -> dict[str, str]:
        """Of a worker; the first one has a way to the servers that can be cut anywhere."""
        urls = {name: server.url() for name, server in self.servers.items()}
        if by_proxy:
            for server in {id(each): each for each in self.servers.values()}.values():
                proxy = Proxy(server.port)
                self._stack.callback(proxy.close)
                self.proxies.append(proxy)
                near, far = f":{server.port}/", f":{proxy.port}/"
                urls = {name: url.replace(near, far) for name, url in urls.items()}
        env = {BROKER: urls["broker"], STORE: urls["store"], LEDGER: self.ledger.url()}
        if self.heartbeat:
            env[HEARTBEAT] = "{} {}".format(*self.heartbeat)
        return env

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not all(" ready." in worker.said() for worker in self.workers):
            for worker in self.workers:
                if not worker.alive or time.monotonic() > deadline:
                    raise ChaosError(f"{worker.name} does not start:\n{worker.said()}")
            time.sleep(0.05)

    def distinct(self) -> dict[str, EmbeddedValkey]:
        """Each server once, by what it is for."""
        broker, store = self.servers["broker"], self.servers["store"]
        return {"server": store} if broker is store else {"broker": broker, "store": store}

    def client(self, name: str) -> redis.Redis:
        """A new client of the ``broker`` or the ``store``, past any proxy; for ``with``."""
        return redis.Redis.from_url(self.servers[name].url(), socket_timeout=5)
