"""Carries out the schedule, records what it did, and starts again what has ended.

A fault that finds nothing to hit (all workers are down, the queue is empty) waits until it does.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import redis

from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.schedule import Fault
from benchmarks.chaos.stage import ChaosError, Stage, Worker
from celery_saga.core.execution import StepRef
from celery_saga.testing.embedded import EmbeddedValkey

#: Seconds between two rounds of the injector.
ROUND = 0.02
#: Seconds from the end of a worker to its next instance.
RESTART = 0.5
#: Seconds for which a worker that continued after a SIGSTOP has no fault. A body of it may do its
#: work when its step is over elsewhere; it reports that, and is compensated. If it is killed before
#: it can, the effect stays unknown: docs/guarantees.md, "A body that cannot be stopped".
REST = 6.0
#: Seconds without a line after which a body is taken to stay where it is for a while; and for which
#: a process with such a body is searched, before any process is taken.
STAYS, SEARCH = 0.005, 2.0
#: Worker instances that may end by themselves, for each server that was killed, before the run has
#: failed.
OWN_ENDS = 20
#: Key of the default queue, and of what workers have taken from queues and not acknowledged.
QUEUE, UNACKED = "celery", "unacked"


@dataclass
class Happened:
    """One fault that was injected.

    Args:
        kind: as in the schedule, or ``"ended"`` for a worker that ended by itself.
        at: when, ``time.monotonic()``.
        worker: process id of the worker's main process, if one was hit.
        pid: of the pool's process, if only that was hit.
        until: when it was over.
        refs: task ids of the messages.
        detail: more, as text.
    """

    kind: str
    at: float
    worker: int = 0
    pid: int = 0
    until: float | None = None
    refs: tuple[str, ...] = ()
    detail: str = ""


class Injector:
    """Runs in a thread from its start until :meth:`finish`.

    Args:
        stage: where faults are injected.
        schedule: the faults.
        progress: returns how many sagas have ended.
    """

    def __init__(
        self, stage: Stage, schedule: Iterable[Fault], progress: Callable[[], int]
    ) -> None:
        self._thread = threading.Thread(target=self._run, name="injector", daemon=True)
        self._stage, self._progress = stage, progress
        self._ledger = Ledger(stage.ledger.url())
        self._coming = list(schedule)
        self._waiting: list[Fault] = []
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._finish = threading.Event()
        self._down: set[int] = set()
        self._killed: set[int] = set()
        #: When a process for a fault was first looked for.
        self._tried: dict[Fault, float] = {}
        self.log: list[Happened] = []
        self.error: Exception | None = None

    @property
    def left(self) -> int:
        """How many faults are still to come."""
        return len(self._coming) + len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether something is still down, stopped or to be sent."""
        return bool(self._later)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._finish.wait(ROUND):
                self._round()
        except Exception as error:
            self.error = error

    def finish(self) -> None:
        """Inject nothing more, and wait for the thread."""
        self._finish.set()
        self._thread.join()
        self._ledger.close()

    def _round(self) -> None:
        self._supervise()
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()
        while self._coming and self._coming[0].after <= self._progress():
            self._waiting.append(self._coming.pop(0))
        for fault in list(self._waiting):
            # A server may be unavailable: then it is tried again, too.
            with contextlib.suppress(redis.RedisError):
                if getattr(self, "_inject_" + fault.kind.replace(" ", "_"))(fault):
                    self._waiting.remove(fault)

    def _in(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._count), action))

    def _note(self, kind: str, **more: Any) -> Happened:
        found = Happened(kind, time.monotonic(), **more)
        self.log.append(found)
        return found

    def _supervise(self) -> None:
        for number, worker in enumerate(self._stage.workers):
            if number in self._down or worker.alive:
                continue
            self._note("ended", worker=worker.pid, detail=worker.name)
            self._restart_soon(worker, RESTART)
            kinds = Counter(each.kind for each in self.log)
            if kinds["ended"] > OWN_ENDS * (1 + kinds["server"]):
                raise ChaosError(f"{worker.name} ends again and again:\n{worker.said()}")

    def _restart_soon(self, worker: Worker, seconds: float) -> None:
        number = self._stage.workers.index(worker)
        self._down.add(number)

        def start() -> None:
            worker.start()
            self._down.discard(number)

        self._in(seconds, start)

    def _chosen(self, fault: Fault) -> tuple[Worker, int] | None:
        """A process of a pool, and its worker; ``None``: not yet."""
        found = [
            (worker, child)
            for worker in self._stage.workers
            if worker.fit
            for child in worker.children()
            if child not in self._killed
        ]
        now, last = time.monotonic(), self._ledger.last()
        there = [
            (worker, child)
            for worker, child in found
            if child in last and last[child].what == fault.stage and now - last[child].at > STAYS
        ]
        if not there and now < self._tried.setdefault(fault, now) + SEARCH:
            return None
        choice = there or found
        return choice[int(fault.pick * len(choice))] if choice else None

    def _inject_child(self, fault: Fault) -> bool:
        chosen = self._chosen(fault)
        if chosen is None:
            return False
        worker, child = chosen
        self._killed.add(child)
        self._note("child", worker=worker.pid, pid=child)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        return True

    def _inject_worker(self, fault: Fault) -> bool:
        chosen = self._chosen(fault)
        if chosen is None:
            return False
        worker, _ = chosen
        self._note("worker", worker=worker.pid, detail=worker.name)
        worker.kill()
        self._restart_soon(worker, fault.seconds)
        return True

    def _inject_stop(self, fault: Fault) -> bool:
        chosen = self._chosen(fault)
        if chosen is None:
            return False
        worker, _ = chosen
        found = self._note("stop", worker=worker.pid, detail=f"{fault.seconds:.1f} s")
        worker.pause()

        def resume() -> None:
            worker.resume(REST)
            found.until = time.monotonic()

        self._in(fault.seconds, resume)
        return True

    def _inject_server(self, fault: Fault) -> bool:
        servers = list(self._stage.distinct().items())
        name, server = servers[int(fault.pick * len(servers))]
        if not server.alive:
            return False
        found = self._note("server", detail=f"{name}, {fault.seconds:.1f} s")
        server.kill()
        self._in(fault.seconds, lambda: self._restart(server, found))
        return True

    def _restart(self, server: EmbeddedValkey, found: Happened) -> None:
        server.restart()
        found.until = time.monotonic()

    def _inject_duplicate(self, fault: Fault) -> bool:
        found = self._messages(fault)
        if found:
            self._note("duplicate", refs=tuple(found))
            self._push(found.values())
        return bool(found)

    def _inject_late_duplicate(self, fault: Fault) -> bool:
        found = self._messages(fault)
        if found:
            self._note("duplicate", refs=tuple(found), detail=f"after {fault.seconds:.1f} s")
            self._in(fault.seconds, lambda: self._push_late(found))
        return bool(found)

    def _push_late(self, found: dict[str, str]) -> None:
        try:
            self._push(found.values())
        except redis.RedisError:  # the server is unavailable
            self._in(0.5, lambda: self._push_late(found))

    def _inject_lose(self, fault: Fault) -> bool:
        found = self._messages(fault, unacked=False)
        with self._stage.client("broker") as client:
            lost = [ref for ref, raw in found.items() if client.lrem(QUEUE, 1, raw)]
        if lost:
            self._note("lose", refs=tuple(lost))
        return bool(lost)

    def _inject_cut(self, fault: Fault) -> bool:
        """Lose a reply to the first worker, or close all connections."""
        proxies = self._stage.proxies
        choice = int(fault.pick * (len(proxies) + len(self._stage.distinct())))
        if choice < len(proxies):
            self._note("cut", detail=f"answer {fault.count}")
            proxies[choice].arm("saga:", fault.count)
            return True
        name = ("broker", "store")[choice - len(proxies)]
        with self._stage.client(name) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self._note("cut", detail=f"all of {name}")
        return True

    def _messages(self, fault: Fault, unacked: bool = True) -> dict[str, str]:
        """Some steps' messages by task id, as they are in the queue."""
        with self._stage.client("broker") as client:
            raws: Any = client.lrange(QUEUE, 0, -1)
            if not raws and unacked:
                taken: Any = client.hvals(UNACKED)
                raws = [json.dumps(json.loads(raw)[0]).encode() for raw in taken]
        begin = int(fault.pick * len(raws))
        some = [raw.decode() for raw in raws[begin : begin + fault.count]]
        found = {json.loads(raw)["headers"]["id"]: raw for raw in some}
        return {ref: raw for ref, raw in found.items() if StepRef.parse(ref)}

    def _push(self, raws: Iterable[str]) -> None:
        with self._stage.client("broker") as client:
            client.lpush(QUEUE, *raws)
