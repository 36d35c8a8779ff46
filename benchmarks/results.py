"""What sections give back: rows that are held against targets, and the figures behind them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.fleet import Sample
from benchmarks.targets import TARGETS, Target


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Args:
        rounds: how often each thing is measured.
        sagas: runs of three steps in a batch; longer ones are fewer.
        steps: lengths of the throughput section.
        seed: of the order in which variants take their turns.
        quick: everything small, to see that it works.
    """

    rounds: int
    sagas: int
    steps: tuple[int, ...]
    seed: int
    quick: bool

    def turns(self, variants: Sequence[str]) -> Iterator[list[str]]:
        """The variants of each round, in a random order of its own."""
        source = random.Random(self.seed)
        for _ in range(self.rounds):
            yield source.sample(list(variants), len(variants))

    def batch(self, steps: int) -> int:
        """Runs in a batch: about the same number of steps whatever their length."""
        return max(4, self.sagas * 3 // steps)


@dataclass(frozen=True)
class Row:
    """One number with its spread.

    Args:
        what: what is measured.
        compared: what with what.
        values: of each round; their median is the result.
        base: the median that is compared with, with its unit; empty for a plain number.
        ours: the median of what is compared.
        target: a key of :data:`TARGETS`, or empty.
    """

    what: str
    compared: str
    values: tuple[float, ...]
    base: str = ""
    ours: str = ""
    target: str = ""

    @property
    def median(self) -> float:
        """The result."""
        return median(self.values)

    @property
    def bounds(self) -> Target | None:
        """What it is held against."""
        return TARGETS[self.target] if self.target else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: with target and verdict."""
        bounds = self.bounds
        return {
            **asdict(self),
            "median": self.median,
            "spread": [min(self.values), max(self.values)],
            "target": asdict(bounds) if bounds else None,
            "met": bounds.met(self.median) if bounds else None,
        }


@dataclass
class Section:
    """All of one section.

    Args:
        name: as it is asked for.
        rows: for the table of targets.
        batches: all measured batches: label, variant, samples.
        raw: anything else that is worth keeping in the JSON file.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    batches: list[tuple[str, str, list[Sample]]] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)


def ratio_row(
    what: str,
    compared: str,
    base: Sequence[float],
    ours: Sequence[float],
    show: Callable[[float], str],
    target: str = "",
) -> Row:
    """The ratio ours / base, formed in each round."""
    values = tuple(b / a for a, b in zip(base, ours, strict=True) if a > 0)
    return Row(what, compared, values, show(median(base)), show(median(ours)), target)


def micros(seconds: float) -> str:
    """Seconds as text in microseconds."""
    return f"{seconds * 1e6:,.0f} us"


def millis(seconds: float) -> str:
    """Seconds as text in milliseconds."""
    return f"{seconds * 1e3:.1f} ms"


def per_second(rate: float) -> str:
    """A rate as text."""
    return f"{rate:,.1f}/s"


def size(count: float) -> str:
    """Bytes as text."""
    return f"{count:,.0f} B" if count < 1e5 else f"{count / 1024:,.0f} KB"
