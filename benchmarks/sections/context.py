"""A payload in the context that no step touches: it must not cost anything at each step."""

from __future__ import annotations

import random
import string
from statistics import median

from benchmarks.fleet import Fleet, Sample
from benchmarks.results import Options, Row, Section, per_second, ratio_row, size

VARIANTS = ("chain", "saga")
SIZES = {"1 KB": 1_000, "100 KB": 100_000, "1 MB": 1_000_000}
#: The difference of two lengths is what steps cost, without start and end of the run.
FEW, MANY = 3, 10

Samples = dict[tuple[str, int], list[Sample]]


def run(fleet: Fleet, options: Options) -> Section:
    """Ours keeps the payload beside the order; the chain passes it along inside of it."""
    section = Section("context")
    stations = fleet.stations(VARIANTS, warm_up=10)
    found: dict[str, Samples] = {}
    for label, length in SIZES.items():
        if options.quick and label == "100 KB":
            continue
        blob = _text(length, options.seed)
        sagas = 3 if options.quick else max(4, min(options.sagas, 20_000_000 // length) // 4)
        samples = found[label] = {(v, n): [] for v in VARIANTS for n in (FEW, MANY)}
        for turn in options.turns(VARIANTS):
            for variant in turn:
                for steps in (FEW, MANY):
                    sample = stations[variant].batch(steps, sagas, blob)
                    samples[variant, steps].append(sample)
        section.rows += _rows(label, samples)
        section.batches += [
            (f"{label}, {steps} steps", variant, taken)
            for (variant, steps), taken in samples.items()
        ]
    section.rows.append(_independent(found))
    return section


def _text(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(string.ascii_letters, k=length))


def _rows(label: str, samples: Samples) -> list[Row]:
    rate = ratio_row(
        f"{label} context, {MANY} steps: runs/s",
        "saga / chain",
        [sample.rate for sample in samples["chain", MANY]],
        [sample.rate for sample in samples["saga", MANY]],
        per_second,
        "context rate" if label == "1 MB" else "",
    )
    slope = ratio_row(
        f"{label} context: bytes through the server for one more step",
        "saga / chain",
        _one_more_step(samples, "chain"),
        _one_more_step(samples, "saga"),
        size,
    )
    return [rate, slope]


def _one_more_step(samples: Samples, variant: str) -> list[float]:
    """Bytes in and out that a step adds, in each round."""
    return [
        (_bytes(many) - _bytes(few)) / (MANY - FEW)
        for few, many in zip(samples[variant, FEW], samples[variant, MANY], strict=True)
    ]


def _bytes(sample: Sample) -> float:
    return (sample.used.bytes_in + sample.used.bytes_out) / sample.sagas


def _independent(found: dict[str, Samples]) -> Row:
    small, large = (_one_more_step(found[label], "saga") for label in ("1 KB", "1 MB"))
    values = tuple(b / a for a, b in zip(small, large, strict=True))
    return Row(
        "bytes through the server for one more step, 1 MB against 1 KB context",
        "saga / saga",
        values,
        size(median(small)),
        size(median(large)),
        "context bytes",
    )
