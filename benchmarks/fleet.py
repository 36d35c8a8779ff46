"""The servers and workers of a run: each variant has its own, on loopback, and all end with us."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.app import VARIANTS, Bench, Place, order
from benchmarks.meters import Meter, Reading
from celery_saga.testing.embedded import EmbeddedValkey
from celery_saga.testing.processes import ManagedProcess

#: The folder from which ``benchmarks`` can be imported.
PROJECT = Path(__file__).resolve().parents[1]
#: Seconds without any record of the tasks after which a run has failed.
TIMEOUT = 60.0
#: Ends that are fetched at once.
FETCH = 500


class BenchmarkError(Exception):
    """The measured thing does not do what it should; nothing that was measured counts."""


@dataclass(frozen=True)
class Sample:
    """One batch of runs of one variant.

    Args:
        sagas: how many runs (of a chain too).
        steps: tasks in each.
        seconds: from the first start to the last end.
        used: what the whole batch cost, its start included.
    """

    sagas: int
    steps: int
    seconds: float
    used: Reading

    @property
    def rate(self) -> float:
        """Runs a second."""
        return self.sagas / self.seconds

    def per_step(self, amount: float) -> float:
        """An amount of the whole batch as one step's share."""
        return amount / (self.sagas * self.steps)


@dataclass(frozen=True)
class End:
    """The record of one task.

    Args:
        what: which task: ``done``, ``failing`` or ``compensated``.
        number: of the run in its batch.
        done: steps that were done before it.
        at: when it ran, ``time.monotonic()``.
    """

    what: str
    number: int
    done: int
    at: float


class Station:
    """One variant with its servers, its worker and a client app.

    Args:
        variant: its name.
        ends: the server on which tasks record that they ran.
        folder: for logs and counts.
        worker: whether a worker is started.
    """

    def __init__(
        self, variant: str, ends: EmbeddedValkey, folder: Path, *, worker: bool = True
    ) -> None:
        self.variant = VARIANTS[variant]
        self._stack = contextlib.ExitStack()
        self._ends = redis.Redis.from_url(ends.url())
        self._log = folder / "worker.log"
        self._worker: ManagedProcess | None = None
        self._lists = itertools.count(1)
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(self.close)
            self._set_up(ends, folder, worker)
            cleanup.pop_all()

    def _set_up(self, ends: EmbeddedValkey, folder: Path, worker: bool) -> None:
        servers = [self._stack.enter_context(EmbeddedValkey())]
        if self.variant.apart:
            servers.append(self._stack.enter_context(EmbeddedValkey()))
        counts = folder / "trips"
        counts.mkdir(parents=True)
        place = Place(
            self.variant.name,
            broker=servers[0].url(),
            ends=ends.url(),
            store=servers[-1].url(),
            trips=str(counts),
        )
        if worker:
            self._worker = self._stack.enter_context(_worker(place, self._log))
        self.bench = Bench(place)
        self._stack.callback(self.bench.close)
        clients = [(server.pid, redis.Redis.from_url(server.url())) for server in servers]
        for _, client in clients:
            self._stack.callback(client.close)
        self.meter = Meter(clients, self._worker.pid if self._worker else None, counts)
        self.version = str(clients[0][1].info("server").get("valkey_version", "?"))

    def close(self) -> None:
        """End worker and servers."""
        self._stack.close()
        self._ends.close()

    def list_name(self) -> str:
        """A new list for the ends of a batch, so that no stray end of another one is counted."""
        return f"ends-{self.variant.name}-{next(self._lists)}"

    def wait(self, key: str, count: int) -> list[End]:
        """The next ``count`` ends on a list.

        Raises:
            BenchmarkError: they do not come.
        """
        found: list[End] = []
        while len(found) < count:
            answer: Any = self._ends.blmpop(TIMEOUT, 1, key, direction="LEFT", count=FETCH)
            if answer is None:
                log = self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""
                raise BenchmarkError(
                    f"{self.variant.name}: {len(found)} of {count} ends came; its worker says:"
                    f"\n{log}"
                )
            for note in answer[1]:
                what, number, done, at = note.decode().split()
                found.append(End(what, int(number), int(done), float(at)))
        return found

    def batch(self, steps: int, sagas: int, blob: str | None = None) -> Sample:
        """Start so many runs at once and wait for all their ends.

        Raises:
            BenchmarkError: a run did not end, or a step of it is missing.
        """

        def start(key: str) -> None:
            for number in range(sagas):
                self.bench.start(steps, order(number, key), blob)

        seconds, used, ends = self.measured(start, sagas)
        numbers = sorted(end.number for end in ends)
        self.check(numbers == list(range(sagas)), "a run ended twice or never")
        self.check(all(end.done == steps - 1 for end in ends), "a step did not run, or ran twice")
        return Sample(sagas, steps, seconds, used)

    def measured(
        self, start: Callable[[str], None], count: int
    ) -> tuple[float, Reading, list[End]]:
        """Seconds until so many ends are there, and what that cost, all that it left included.

        Args:
            start: starts the runs; it is given the list for their ends.
        """
        key = self.list_name()
        before, begun = self.meter.read(), time.perf_counter()
        start(key)
        ends = self.wait(key, count)
        seconds = time.perf_counter() - begun
        self.meter.rest()
        return seconds, self.meter.read().since(before), ends

    def check(self, holds: bool, otherwise: str) -> None:
        """
        Raises:
            BenchmarkError: it does not hold.
        """
        if not holds:
            raise BenchmarkError(f"{self.variant.name}: {otherwise}")


class Fleet:
    """All stations of a run, each started when it is first asked for; use it in ``with``."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._stations: dict[str, Station] = {}
        self._numbers = itertools.count()
        self._version = "?"

    def __enter__(self) -> Fleet:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="saga-benchmark-"))
            self._folder = Path(folder)
            self._ends = stack.enter_context(EmbeddedValkey())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def station(self, variant: str, *, worker: bool = True) -> Station:
        """A new station, closed at the end of the fleet at the latest."""
        folder = self._folder / f"{variant}-{next(self._numbers)}"
        folder.mkdir()
        station = Station(variant, self._ends, folder, worker=worker)
        self._stack.callback(station.close)
        self._version = station.version
        return station

    def stations(self, variants: Sequence[str], warm_up: int) -> dict[str, Station]:
        """The shared stations of some variants.

        Args:
            warm_up: runs of three steps through each one that is new, which also waits until its
                worker is there.
        """
        new = [name for name in variants if name not in self._stations]
        # All at once: their workers take their time to come up.
        self._stations.update({name: self.station(name) for name in new})
        for name in new:
            self._stations[name].batch(3, warm_up)
        return {name: self._stations[name] for name in variants}

    @property
    def server_version(self) -> str:
        """Of the server program."""
        return self._version


def _worker(place: Place, log: Path) -> ManagedProcess:
    options = ["-P", "prefork", "-c", "2", "-n", f"{place.variant}@localhost"]
    options += ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
    return ManagedProcess(
        [sys.executable, "-m", "celery", "-A", "benchmarks.worker", "worker", *options],
        env={**os.environ, **place.environment()},
        cwd=PROJECT,
        log=log,
    )
