"""The figures of recovery as tables, Markdown for the README and JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from rich.console import Console

from benchmarks.recovery.calm import Calm
from benchmarks.recovery.kills import Sample
from benchmarks.recovery.poison import Poison
from benchmarks.report import FILE_WIDTH, grid, place, table

#: Columns of the table of kills; times in seconds, of each affected saga.
KILLS = ("killed", "in the middle of", "next worker", "sagas", "p50", "p95", "max", "extra bodies")
#: Columns of the table of what is not a loss.
CALM = ("what", "bodies", "extra bodies", "seconds")

#: Columns of the table of poison; times in seconds.
POISON = (
    "workers",
    "bodies that killed one",
    "fewest ready",
    "other sagas",
    "their p50",
    "their max",
    "its end after",
)


@dataclass
class Found:
    """All that was measured in one run."""

    kills: list[Sample] = field(default_factory=list)
    calm: list[Calm] = field(default_factory=list)
    poison: list[Poison] = field(default_factory=list)

    @property
    def extra(self) -> int:
        """Bodies that ran more often than they had to."""
        every: list[Sequence[Sample | Calm | Poison]] = [self.kills, self.calm, self.poison]
        return sum(each.extra for found in every for each in found)


Key = Callable[[Sample], tuple[str, ...]]


def _by_kind(sample: Sample) -> tuple[str, ...]:
    return sample.kind, "", "alive" if sample.others else "started after"


def _by_moment(sample: Sample) -> tuple[str, ...]:
    return sample.kind, sample.moment, "alive" if sample.others else "started after"


def kills_lines(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """A line a kind and moment, a line a kind, and one for all."""
    lines: list[tuple[str, ...]] = []
    for key in (_by_moment, _by_kind, lambda sample: ("all", "", "")):
        groups: dict[tuple[str, ...], list[Sample]] = {}
        for sample in samples:
            groups.setdefault(key(sample), []).append(sample)
        lines += [(*name, *_figures(found)) for name, found in groups.items()]
    return lines


def _figures(samples: Sequence[Sample]) -> tuple[str, ...]:
    times = [sample.seconds for sample in samples]
    cuts = quantiles(times, n=100, method="inclusive") if len(times) > 1 else times * 99
    extra = sum(sample.extra for sample in samples)
    return (
        str(len(times)),
        *(f"{cut:.2f}" for cut in (cuts[49], cuts[94], max(times))),
        str(extra),
    )


def calm_lines(calm: Sequence[Calm]) -> list[tuple[str, ...]]:
    """A line each."""
    return [
        (each.what, f"{each.bodies:,}", str(each.extra), f"{each.seconds:.0f}") for each in calm
    ]


def poison_lines(poison: Sequence[Poison]) -> list[tuple[str, ...]]:
    """A line a fleet."""
    return [
        (
            *map(str, (each.workers, each.bodies, each.least, len(each.harmless))),
            *(f"{seconds:.2f}" for seconds in (median(each.harmless), max(each.harmless))),
            f"{each.seconds:.0f}",
        )
        for each in poison
    ]


def show(where: dict[str, Any], found: Found, markdown: bool) -> None:
    """Print the tables that there are."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    tables = [
        ("seconds from the kill to the next body", KILLS, kills_lines(found.kills)),
        ("what is not a loss", CALM, calm_lines(found.calm)),
        ("a step that kills its worker each time", POISON, poison_lines(found.poison)),
    ]
    for title, columns, lines in tables:
        if lines and markdown:
            print(grid(columns, lines), end="\n\n")
        elif lines:
            console.print(table(title, columns, lines))
    print(f"{place(where)}.")
