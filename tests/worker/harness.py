"""Workers, databases and a journal of what bodies did: the stage on which these tests play."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from celery_saga import Saga, SagaManager, SagaResult
from celery_saga.testing.processes import ManagedProcess
from tests.helpers import wait_for

ROOT = Path(__file__).resolve().parents[2]

#: Short heartbeats: a dead worker is found out in two seconds instead of in six; one that a loaded
#: machine holds up for less is not taken for dead.
QUICK = {"saga_heartbeat": 0.2, "saga_heartbeat_ttl": 2.0}


class Worker:
    """A real ``celery worker`` process on an app module of these tests."""

    _count = 0

    def __init__(
        self,
        app: str,
        folder: Path,
        env: Mapping[str, str],
        options: tuple[str, ...],
        keeper: Sequence[str] = (),
    ) -> None:
        Worker._count += 1
        self.name = f"w{Worker._count}@test"
        self.log = folder / f"worker-{Worker._count}.log"
        command = [*keeper, sys.executable, "-m", "celery", "-A", app, "worker", "-n", self.name]
        command += ["--loglevel", "INFO", "--without-mingle", "--without-gossip", *options]
        self.process = ManagedProcess(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            cwd=str(ROOT),
            log=str(self.log),
        )

    def wait_until_ready(self) -> Worker:
        wait_for(lambda: " ready." in self.text() or not self.process.alive, timeout=40)
        assert self.process.alive, self.text()
        return self

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def kill(self) -> None:
        """SIGKILL for the whole worker, pool and all."""
        self.process.kill()

    def signal(self, number: int) -> None:
        """A signal for the worker's main process."""
        self.process.send_signal(number)


class Journal:
    """What bodies wrote down, and the gates at which they wait."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url, socket_timeout=30)

    def of(self, saga_id: str) -> list[dict[str, Any]]:
        found: Any = self.client.lrange(f"journal:{saga_id}", 0, -1)
        return [json.loads(line) for line in found]

    def said(self, saga_id: str, what: str) -> list[dict[str, Any]]:
        return [line for line in self.of(saga_id) if line["what"] == what]

    def began(self, saga_id: str) -> list[str]:
        """``step/direction`` of the bodies in the order in which they began."""
        return [f"{line['step']}/{line['direction']}" for line in self.said(saga_id, "began")]

    def wait(self, saga_id: str, what: str, count: int = 1, timeout: float = 30) -> dict[str, Any]:
        """The ``count``th line that says ``what``."""
        wait_for(
            lambda: len(self.said(saga_id, what)) >= count,
            timeout,
            description=f"{count} times {what!r} of {saga_id}: {self.of(saga_id)}",
        )
        return self.said(saga_id, what)[count - 1]

    def waits(self, pid: int) -> bool:
        """Whether a body of the process waits at a gate by now; it said before that it began."""
        me = ("body-" + str(pid), "blpop")
        clients: Any = self.client.client_list()
        return any((one["name"], one["cmd"]) == me and "b" in one["flags"] for one in clients)

    def open(self, saga_id: str, gate: str, times: int = 1) -> None:
        """Let that many bodies pass the gate."""
        self.client.rpush(f"gate:{saga_id}:{gate}", *["go"] * times)


class Site:
    """One database of the server with what runs on it: broker, store, client and workers."""

    def __init__(self, url: str, journal: Journal, folder: Path) -> None:
        self.url, self.journal, self.folder = url, journal, folder
        self.client = redis.Redis.from_url(url, socket_timeout=30)
        self.client.flushdb()
        self.workers: list[Worker] = []
        self._stack = ExitStack()
        self.settings: dict[str, Any] = dict(QUICK)
        self.app = self.new_app()

    def new_app(self, name: str = "site", **settings: Any) -> Celery:
        """An app on this database, as another client process would have it."""
        app = Celery(name, broker=self.url, backend=self.url, set_as_current=False)
        app.conf.update(**{**self.settings, **settings})
        SagaManager(app)
        self._stack.callback(app.close)
        return app

    def environment(self, **settings: Any) -> dict[str, str]:
        """What the apps of these tests want to know of their site."""
        return {
            "SAGA_TEST_URL": self.url,
            "SAGA_TEST_JOURNAL": self.journal.url,
            "SAGA_TEST_SETTINGS": json.dumps({**self.settings, **settings}),
        }

    def start(
        self,
        *options: str,
        app: str = "tests.worker.apps.site",
        env: Mapping[str, str] | None = None,
        keeper: Sequence[str] = (),
        **settings: Any,
    ) -> Worker:
        """Start a worker; it is not waited for.

        Args:
            keeper: a command that starts the one which follows it.
        """
        env = {**(env or {}), **self.environment(**settings)}
        options = options if "-c" in options else ("-c", "2", *options)
        self.workers.append(Worker(app, self.folder, env, options, keeper))
        return self.workers[-1]

    def worker(self, *options: str, **settings: Any) -> Worker:
        """Start a worker and wait until it takes tasks."""
        return self.start(*options, **settings).wait_until_ready()

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.process.stop()
        self.client.flushdb()  # a worker whose store it is next would recover what is left
        self._stack.close()
        self.client.close()

    def saga(self, *steps: Any, name: str = "site") -> Saga:
        """A committed saga of ``(step name, task, compensation)`` or ``(step name, task)``."""
        saga = Saga(name, app=self.app)
        for step_name, task, *compensation in steps:
            step = saga.local_step(task, name=step_name)
            if compensation:
                step.on_failure(compensation[0])
        return saga.commit()

    def now(self) -> float:
        """The server's time."""
        seconds, micros = self.client.time()  # type: ignore[misc]
        return float(seconds + micros / 1e6)

    def pass_time(self, seconds: float) -> None:
        """Wait until the server's clock has advanced by that much."""
        until = self.now() + seconds
        wait_for(lambda: self.now() >= until, seconds + 20)

    def alive(self) -> int:
        """How many worker instances count as alive."""
        count: Any = self.client.zcount("saga:instances", self.now(), "+inf")
        return int(count)

    def queued(self) -> int:
        return int(self.client.llen("celery"))  # type: ignore[arg-type]

    def settled(self, result: SagaResult, timeout: float = 40) -> str:
        """The status in which the saga settled."""
        result.get(timeout=timeout, propagate=False)
        return result.status.value

    def kill_child(self, line: Mapping[str, Any]) -> None:
        """SIGKILL for the process that wrote a line of the journal."""
        os.kill(line["pid"], signal.SIGKILL)


#: Keys that stay for ever by design: the broker's, the indexes and the book-keeping of instances.
_KEPT = (
    "_kombu.",
    "unacked",
    "celery",
    "saga:status:",
    "saga:name:",
    "saga:instances",
    "saga:reserved",
    "saga:due",
)


def leftovers(client: redis.Redis) -> list[str]:
    """Keys that would stay for ever although the sagas behind them are over."""
    found = []
    for raw in _keys(client):
        key = raw.decode()
        if client.ttl(key) != -1:
            continue
        if key.startswith("saga:execution:"):
            status = json.loads(client.hget(key, "head") or b"{}").get("status")  # type: ignore[arg-type]
            if status in ("COMPLETED", "COMPENSATED"):
                found.append(f"{key} ({status})")
        elif key.startswith("saga:claims:"):
            members: Any = client.smembers(key)
            found += [f"{key}: {m.decode()}" for m in members if _over(client, m.decode())]
        elif not key.startswith(_KEPT):
            found.append(key)
    due: Any = client.zrange("saga:due", 0, -1)
    return found + [f"saga:due: {m.decode()}" for m in due if _over(client, m.decode())]


def _over(client: redis.Redis, member: str) -> bool:
    head: Any = client.hget(f"saga:execution:{member.partition('~')[0]}", "head")
    return head is None or json.loads(head).get("status") in ("COMPLETED", "COMPENSATED")


def _keys(client: redis.Redis) -> Iterator[bytes]:
    return iter(client.scan_iter(count=500))
