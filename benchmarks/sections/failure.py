"""A saga that fails at its last step: its compensations against its forward steps."""

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
    turn: list[float] = []
    compensation: list[float] = []
    straight: list[Sample] = []
    back: list[Sample] = []
    sagas = options.batch(STEPS)
    for _ in range(options.rounds):
        times = [_one(station) for _ in range(singles)]
        for found, each in zip(
            (forward, turn, compensation), zip(*times, strict=True), strict=True
        ):
            found.append(median(each))
        straight.append(station.batch(STEPS, sagas))
        back.append(_batch(station, sagas))
    section.rows = [_time(forward, compensation), _turn(forward, turn), _cpu(straight, back)]
    section.batches += [
        (f"{STEPS} steps", "saga", straight),
        (f"{STEPS} steps, {STEPS - 1} compensations", "saga", back),
    ]
    section.raw = {
        "forward_seconds": forward,
        "turn_seconds": turn,
        "compensation_seconds": compensation,
    }
    return section


def _time(forward: list[float], compensation: list[float]) -> Row:
    what = f"{STEPS} steps, the last fails: time of a compensation"
    compared = "a compensation / a forward step, one saga at a time"
    return ratio_row(what, compared, forward, compensation, millis, "compensation")


def _turn(forward: list[float], turn: list[float]) -> Row:
    what = f"{STEPS} steps, the last fails: from its body to the first compensation"
    return ratio_row(what, "the turn / a forward step", forward, turn, millis)


def _cpu(straight: list[Sample], back: list[Sample]) -> Row:
    """The cost of compensations: what a failing saga uses more than a good one."""
    steps = [sample.per_step(sample.used.cpu) for sample in straight]
    compensations = [
        (bad.used.cpu - good.used.cpu) / (bad.sagas * (STEPS - 1))
        for good, bad in zip(straight, back, strict=True)
    ]
    what = f"{STEPS} steps, the last fails: CPU of worker and server"
    compared = "a compensation / a forward step, many sagas at once"
    return ratio_row(what, compared, steps, compensations, micros, "compensation")


def _start(station: Station, number: int, key: str) -> Any:
    return station.bench.saga(STEPS, failing=True).delay(order=order(number, key))


def _one(station: Station) -> tuple[float, float, float]:
    """Seconds from step to step, from the last step to the first compensation, and from one
    compensation to the next.
    """
    key = station.list_name()
    _start(station, 0, key)
    first_step, failing, first, last = sorted(end.at for end in station.wait(key, 4))
    return (failing - first_step) / (STEPS - 1), first - failing, (last - first) / (STEPS - 2)


def _batch(station: Station, sagas: int) -> Sample:
    def start(key: str) -> None:
        for number in range(sagas):
            _start(station, number, key)

    seconds, used, ends = station.measured(start, sagas * 4)
    station.check(
        sum(end.what == "compensated" for end in ends) == 2 * sagas, "a saga was not compensated"
    )
    return Sample(sagas, STEPS, seconds, used)
