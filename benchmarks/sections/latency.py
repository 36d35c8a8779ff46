"""One short run at a time on a worker that has nothing else to do."""

from __future__ import annotations

import time
from statistics import median, quantiles

from benchmarks.app import order
from benchmarks.fleet import Fleet, Station
from benchmarks.results import Options, Row, Section, millis, ratio_row

VARIANTS = ("chain", "chain-noresult", "saga", "saga-results", "saga-two-write")
STEPS = 3
#: Seconds that a caller waits for a result.
TIMEOUT = 30.0


def run(fleet: Fleet, options: Options) -> Section:
    """Until the last body ran, which is one thing in all variants; and until ``get()`` answers."""
    section = Section("latency")
    stations = fleet.stations(VARIANTS, warm_up=10)
    count = 10 if options.quick else 100
    bodies: dict[str, list[list[float]]] = {variant: [] for variant in VARIANTS}
    gets: dict[str, list[list[float]]] = {variant: [] for variant in VARIANTS}
    for turn in options.turns(VARIANTS):
        for variant in turn:
            stations[variant].meter.rest()
            times = [_one(stations[variant], number) for number in range(count)]
            bodies[variant].append([body for body, _ in times])
            gets[variant].append([get for _, get in times])
    for ours in ("saga", "saga-results", "saga-two-write"):
        for base in ("chain", "chain-noresult") if ours == "saga" else ("chain",):
            target = "latency" if (base, ours) == ("chain", "saga") else ""
            what = f"{STEPS} steps, idle worker: start to last body"
            section.rows += [
                _row(f"{what}, p50", base, ours, bodies, 50, target),
                _row(f"{what}, p95", base, ours, bodies, 95, ""),
            ]
    what = f"{STEPS} steps, idle worker: start to return of get(), p50"
    section.rows.append(_row(what, "chain", "saga", gets, 50, ""))
    section.raw = {"last_body_seconds": bodies, "get_seconds": gets}
    return section


def _row(
    what: str, base: str, ours: str, found: dict[str, list[list[float]]], percent: int, target: str
) -> Row:
    def figure(times: list[float]) -> float:
        return median(times) if percent == 50 else quantiles(times, n=100)[percent - 1]

    return ratio_row(
        what,
        f"{ours} / {base}",
        [figure(times) for times in found[base]],
        [figure(times) for times in found[ours]],
        millis,
        target,
    )


def _one(station: Station, number: int) -> tuple[float, float]:
    """Seconds until the last body ran, and until its result is there."""
    key = station.list_name()
    begun = time.monotonic()
    result = station.bench.start(STEPS, order(number, key))
    result.get(timeout=TIMEOUT)
    got = time.monotonic() - begun
    (end,) = station.wait(key, 1)
    return end.at - begun, got
