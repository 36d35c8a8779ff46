"""What an idle worker asks of its server, by the server's own count."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.fleet import Fleet
from benchmarks.meters import Reading
from benchmarks.results import Options, Row, Section

VARIANTS = ("chain", "saga", "saga-two-write")


def run(fleet: Fleet, options: Options) -> Section:
    """Plain and plugged-in workers in the same while: the difference is the plugin's."""
    section = Section("idle")
    stations = fleet.stations(VARIANTS, warm_up=10)
    beat = float(stations["saga"].bench.app.conf.saga_heartbeat)
    beats, rounds = (2, 1) if options.quick else (10, 3)
    found: dict[str, list[Reading]] = {variant: [] for variant in VARIANTS}
    for station in stations.values():
        station.meter.rest()
    time.sleep(beat)  # a worker's first beats also connect and load scripts
    for _ in range(rounds):
        before = {variant: station.meter.read() for variant, station in stations.items()}
        time.sleep(beats * beat)
        for variant, station in stations.items():
            found[variant].append(station.meter.read().since(before[variant]))
    section.rows += [_row(found, ours, beats) for ours in VARIANTS if ours != "chain"]
    section.raw = {
        "heartbeats": beats,
        "per_heartbeat": {
            variant: [_each(reading, beats) for reading in readings]
            for variant, readings in found.items()
        },
    }
    return section


def _row(found: dict[str, list[Reading]], ours: str, beats: int) -> Row:
    pairs = list(zip(found["chain"], found[ours], strict=True))
    each = tuple((with_it.requests - plain.requests) / beats for plain, with_it in pairs)
    return Row(
        "idle worker: round trips in a heartbeat",
        f"{ours} - chain",
        each,
        f"{sum(plain.requests for plain, _ in pairs) / len(pairs) / beats:.1f}",
        f"{sum(with_it.requests for _, with_it in pairs) / len(pairs) / beats:.1f}",
        "idle" if ours == "saga" else "",
    )


def _each(used: Reading, beats: int) -> dict[str, Any]:
    return {
        "requests": used.requests / beats,
        "commands": used.commands / beats,
        "worker_cpu": (used.main_cpu + used.child_cpu) / beats,
    }
