"""A saga that fails at its last step and undoes all the others: undos against forward steps."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.app import order
from benchmarks.fleet import Fleet, Sample, Station
from benchmarks.results import Options, Row, Section, micros, millis, ratio_row

STEPS = 10


def run(fleet: Fleet, options: Options) -> Section:
    """One after the other for the time, all at once for the processor time."""
    section = Section("failure")
    station = fleet.stations(("saga",), warm_up=10)["saga"]
    singles = 5 if options.quick else 20
    forward: list[float] = []
    undo: list[float] = []
    straight: list[Sample] = []
    back: list[Sample] = []
    sagas = options.batch(STEPS)
    for _ in range(options.rounds):
        times = [_one(station) for _ in range(singles)]
        forward.append(median(there for there, _ in times))
        undo.append(median(again for _, again in times))
        straight.append(station.batch(STEPS, sagas))
        back.append(_batch(station, sagas))
    section.rows = [_time(forward, undo), _cpu(straight, back)]
    section.batches += [
        (f"{STEPS} steps", "saga", straight),
        (f"{STEPS} steps, {STEPS - 1} undos", "saga", back),
    ]
    section.raw = {"forward_seconds": forward, "undo_seconds": undo}
    return section


def _time(forward: list[float], undo: list[float]) -> Row:
    what = f"{STEPS} steps, the last fails: time of an undo"
    compared = "an undo / a forward step, one saga at a time"
    return ratio_row(what, compared, forward, undo, millis, "undo")


def _cpu(straight: list[Sample], back: list[Sample]) -> Row:
    """What a failing saga uses more than a good one is its undos."""
    steps = [sample.per_step(sample.used.cpu) for sample in straight]
    undos = [
        (bad.used.cpu - good.used.cpu) / (bad.sagas * (STEPS - 1))
        for good, bad in zip(straight, back, strict=True)
    ]
    what = f"{STEPS} steps, the last fails: CPU of worker and server"
    compared = "an undo / a forward step, many sagas at once"
    return ratio_row(what, compared, steps, undos, micros, "undo")


def _start(station: Station, number: int, key: str) -> Any:
    return station.bench.saga(STEPS, failing=True).delay(order=order(number, key))


def _one(station: Station) -> tuple[float, float]:
    """Seconds from step to step on the way forward, and from undo to undo."""
    key = station.list_name()
    _start(station, 0, key)
    at = {end.what: end.at for end in station.wait(key, 3)}
    # From the first body to the last one, and from that to the last undo: as many hops each way.
    hops = STEPS - 1
    return (at["failing"] - at["told"]) / hops, (at["undone"] - at["failing"]) / hops


def _batch(station: Station, sagas: int) -> Sample:
    def start(key: str) -> None:
        for number in range(sagas):
            _start(station, number, key)

    seconds, used, ends = station.measured(start, sagas * 3)
    station.check(sum(end.what == "undone" for end in ends) == sagas, "a saga was not undone")
    return Sample(sagas, STEPS, seconds, used)
