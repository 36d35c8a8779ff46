"""What starting a run costs the process that starts it. No worker runs: nothing competes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.app import order
from benchmarks.fleet import Fleet, Station
from benchmarks.meters import Reading
from benchmarks.results import Options, Row, Section, micros, ratio_row

STEPS = 3
#: How each thing is started: the variant whose servers it uses, and whether the chain is built
#: once and then only given its first argument.
WAYS = {
    "chain": ("chain", False),
    "chain, built once": ("chain", True),
    "saga": ("saga", False),
    "saga-two-write": ("saga-two-write", False),
}


def run(fleet: Fleet, options: Options) -> Section:
    """``saga.delay`` against ``chain(...).apply_async``."""
    section = Section("start")
    count = 100 if options.quick else 500
    stations = {
        variant: fleet.station(variant, worker=False) for variant in {v for v, _ in WAYS.values()}
    }
    starts = {way: _start(stations[variant], once) for way, (variant, once) in WAYS.items()}
    for start in starts.values():
        _measure(start, 50)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    costs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for turn in options.turns(tuple(WAYS)):
        for way in turn:
            meter = stations[WAYS[way][0]].meter
            before = meter.read()
            found[way].append(_measure(starts[way], count))
            costs[way].append(_each(meter.read().since(before), count))
    section.rows += [_row(found, base, "saga", 0) for base in WAYS if base.startswith("chain")]
    section.rows += [_row(found, base, "saga", 1) for base in WAYS if base.startswith("chain")]
    section.rows.append(_row(found, "chain", "saga-two-write", 1))
    section.raw = {"wall_and_cpu_seconds": found, "per_start": costs}
    return section


def _row(found: dict[str, list[tuple[float, float]]], base: str, ours: str, which: int) -> Row:
    return ratio_row(
        f"start of {STEPS} steps: client's {('time', 'CPU')[which]}",
        f"{ours} / {base}",
        [taken[which] for taken in found[base]],
        [taken[which] for taken in found[ours]],
        micros,
        "start" if (base, ours) == ("chain", "saga") else "",
    )


def _start(station: Station, once: bool) -> Callable[[int], Any]:
    if not once:
        return lambda number: station.bench.start(STEPS, order(number, "unread"))
    built = station.bench.chain(STEPS)
    return lambda number: built.apply_async((order(number, "unread"),))


def _measure(start: Callable[[int], Any], count: int) -> tuple[float, float]:
    """Seconds of time and of this process's processor for one start."""
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        start(number)
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def _each(used: Reading, count: int) -> dict[str, float]:
    return {
        "requests": used.requests / count,
        "commands": used.commands / count,
        "bytes_in": used.bytes_in / count,
        "server_cpu": used.server_cpu / count,
    }
