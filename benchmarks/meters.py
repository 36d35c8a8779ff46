"""What a run cost: processor time of the processes, and the servers' own counters."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks import trips

#: Seconds between two looks at whether a worker has come to rest, and how long that may take.
REST_LOOK, REST_TIMEOUT = 0.1, 5.0
#: Processor seconds in one look that an idle worker may use; the kernel counts in hundredths.
REST_CPU = 0.01


@dataclass(frozen=True)
class Reading:
    """Counters at one moment, or their growth between two.

    Args:
        main_cpu: processor seconds of the worker's main process.
        child_cpu: of its pool processes together.
        server_cpu: of broker, backend and store.
        bytes_in: bytes that those servers received.
        bytes_out: bytes that they sent.
        requests: reads from sockets that they handled: round trips of worker and client together,
            as far as a request fits into one read.
        commands: commands that they ran, those inside of scripts included.
        child_trips: requests that the pool processes sent.
        main_trips: requests that the main process sent.
    """

    main_cpu: float = 0.0
    child_cpu: float = 0.0
    server_cpu: float = 0.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    requests: float = 0.0
    commands: float = 0.0
    child_trips: float = 0.0
    main_trips: float = 0.0

    @property
    def cpu(self) -> float:
        """Processor seconds of worker and servers."""
        return self.main_cpu + self.child_cpu + self.server_cpu

    def since(self, before: Reading) -> Reading:
        """The growth from ``before`` to here."""
        grown = {f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)}
        return Reading(**grown)


class Meter:
    """Reads the counters of one variant.

    Args:
        servers: process id and client of each server.
        worker: process id of the worker's main process, or None if there is none.
        folder: where the worker's processes count their round trips.
    """

    def __init__(
        self,
        servers: Iterable[tuple[int, redis.Redis]],
        worker: int | None = None,
        folder: Path | None = None,
    ) -> None:
        self._servers = [(psutil.Process(pid), client) for pid, client in servers]
        self._worker = None if worker is None else psutil.Process(worker)
        self._folder = folder
        self._looks = 0

    def children(self) -> list[psutil.Process]:
        """The worker's pool processes."""
        return [] if self._worker is None else self._worker.children(recursive=True)

    def read(self) -> Reading:
        """The counters now; reading them is not counted."""
        main, pool = self._worker_cpu()
        counts: dict[int, int] = trips.read(self._folder) if self._folder else {}
        own = counts.pop(self._worker.pid, 0) if self._worker else 0
        stats = [client.info("stats", "commandstats") for _, client in self._servers]
        self._looks += 1
        return Reading(
            main_cpu=main,
            child_cpu=pool,
            server_cpu=sum(_cpu(process) for process, _ in self._servers),
            bytes_in=sum(found["total_net_input_bytes"] for found in stats),
            bytes_out=sum(found["total_net_output_bytes"] for found in stats),
            requests=sum(found["total_reads_processed"] - self._looks for found in stats),
            commands=sum(_commands(found) for found in stats),
            child_trips=sum(counts.values()),
            main_trips=own,
        )

    def rest(self) -> None:
        """Wait until the worker has dealt with all it was sent: until it uses no processor."""
        deadline, last = time.monotonic() + REST_TIMEOUT, sum(self._worker_cpu())
        while time.monotonic() < deadline:
            time.sleep(REST_LOOK)
            now = sum(self._worker_cpu())
            if now - last <= REST_CPU:
                return
            last = now

    def _worker_cpu(self) -> tuple[float, float]:
        if self._worker is None:
            return 0.0, 0.0
        return _cpu(self._worker), sum(map(_cpu, self.children()))


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _commands(stats: dict[str, Any]) -> int:
    return sum(
        found["calls"]
        for name, found in stats.items()
        if name.startswith("cmdstat_") and name != "cmdstat_info"
    )
