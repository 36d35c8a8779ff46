"""Tasks that run at the same time, and one after them: a parallel step against Celery's chord."""

from __future__ import annotations

from benchmarks.app import order
from benchmarks.fleet import Fleet, Sample, Station
from benchmarks.results import Options, Row, Section, micros, per_second, ratio_row

VARIANTS = ("chain", "saga", "saga-two-write")
BRANCHES = (10, 100)


def run(fleet: Fleet, options: Options) -> Section:
    """Chords and parallel steps of two sizes; all are started at once, as in ``throughput``."""
    section = Section("groups")
    stations = fleet.stations(VARIANTS, warm_up=10)
    found: dict[int, dict[str, list[Sample]]] = {
        branches: {variant: [] for variant in VARIANTS} for branches in BRANCHES
    }
    for turn in options.turns(VARIANTS):
        for branches, samples in found.items():
            for variant in turn:
                count = max(2, options.batch(branches) // 2)
                samples[variant].append(_batch(stations[variant], branches, count))
    for branches, samples in found.items():
        for ours in VARIANTS[1:]:
            section.rows += _rows(branches, samples, ours)
        section.batches += [
            (f"{branches} branches", name, taken) for name, taken in samples.items()
        ]
    return section


def _batch(station: Station, branches: int, count: int) -> Sample:
    """Start so many groups at once, and wait for all their ends.

    Raises:
        BenchmarkError: one did not end, or ended twice.
    """

    def start(key: str) -> None:
        for number in range(count):
            station.bench.start_group(branches, order(number, key))

    seconds, used, ends = station.measured(start, count)
    numbers = sorted(end.number for end in ends)
    station.check(numbers == list(range(count)), "a group ended twice or never")
    return Sample(count, branches + 1, seconds, used)


def _rows(branches: int, samples: dict[str, list[Sample]], ours: str) -> list[Row]:
    base, mine = samples["chain"], samples[ours]
    return [
        ratio_row(
            f"group of {branches}: tasks/s",
            f"{ours} / chord",
            [each.rate * each.steps for each in base],
            [each.rate * each.steps for each in mine],
            per_second,
            "",
        ),
        ratio_row(
            f"group of {branches}: CPU of worker and server a task",
            f"{ours} / chord",
            [each.per_step(each.used.cpu) for each in base],
            [each.per_step(each.used.cpu) for each in mine],
            micros,
            "",
        ),
    ]
