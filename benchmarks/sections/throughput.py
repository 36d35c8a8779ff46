"""Many runs at once: runs a second, processor time, bytes and round trips a step."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.fleet import Fleet, Sample
from benchmarks.results import Options, Row, Section, micros, per_second, ratio_row, size
from benchmarks.targets import TARGETS

VARIANTS = ("chain", "chain-noresult", "saga", "saga-results", "saga-two-write")
BASES = ("chain", "chain-noresult")

Samples = dict[str, list[Sample]]
Figure = Callable[[Sample], float]


def run(fleet: Fleet, options: Options) -> Section:
    """All variants at all lengths."""
    section = Section("throughput")
    stations = fleet.stations(VARIANTS, warm_up=10 if options.quick else 100)
    found: dict[int, Samples] = {
        steps: {variant: [] for variant in VARIANTS} for steps in options.steps
    }
    for turn in options.turns(VARIANTS):
        for steps, samples in found.items():
            for variant in turn:
                samples[variant].append(stations[variant].batch(steps, options.batch(steps)))
    for steps, samples in found.items():
        section.rows += _rows(steps, samples)
        section.batches += [(f"{steps} steps", name, taken) for name, taken in samples.items()]
    if len(found) > 1:
        section.rows.append(_flat(found))
    return section


def _rows(steps: int, samples: Samples) -> list[Row]:
    rows = []
    for base in BASES:
        target = _known(f"rate {steps} / {base}")
        rows.append(_rate(steps, samples, base, "saga", target))
    rows.append(_rate(steps, samples, "chain", "saga-results", ""))
    rows.append(_rate(steps, samples, "chain", "saga-two-write", "two writes"))
    for base in BASES:
        target = "cpu / chain" if base == "chain" else ""
        rows.append(_cpu(steps, samples, base, target))
    rows.append(_bytes(steps, samples, _known(f"bytes {steps} / chain")))
    trips = tuple(sample.per_step(sample.used.child_trips) for sample in samples["saga"])
    rows.append(
        Row(
            f"{steps} steps: round trips a step", "saga, pool process", trips, "", "", "child trips"
        )
    )
    return rows


def _known(target: str) -> str:
    return target if target in TARGETS else ""


def _of(samples: Samples, variant: str, figure: Figure) -> list[float]:
    return [figure(sample) for sample in samples[variant]]


def _rate(steps: int, samples: Samples, base: str, ours: str, target: str) -> Row:
    return ratio_row(
        f"{steps} steps: runs/s",
        f"{ours} / {base}",
        _of(samples, base, lambda sample: sample.rate),
        _of(samples, ours, lambda sample: sample.rate),
        per_second,
        target,
    )


def _cpu(steps: int, samples: Samples, base: str, target: str) -> Row:
    return ratio_row(
        f"{steps} steps: CPU of worker and server a step",
        f"saga / {base}",
        _of(samples, base, lambda sample: sample.per_step(sample.used.cpu)),
        _of(samples, "saga", lambda sample: sample.per_step(sample.used.cpu)),
        micros,
        target,
    )


def _bytes(steps: int, samples: Samples, target: str) -> Row:
    return ratio_row(
        f"{steps} steps: bytes into the server a step",
        "saga / chain",
        _of(samples, "chain", lambda sample: sample.per_step(sample.used.bytes_in)),
        _of(samples, "saga", lambda sample: sample.per_step(sample.used.bytes_in)),
        size,
        target,
    )


def _flat(found: dict[int, Samples]) -> Row:
    few, many = min(found), max(found)
    return ratio_row(
        f"steps/s with {many} steps against {few} steps",
        "saga / saga",
        _of(found[few], "saga", lambda sample: sample.rate * sample.steps),
        _of(found[many], "saga", lambda sample: sample.rate * sample.steps),
        per_second,
        "flat",
    )
