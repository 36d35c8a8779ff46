"""Runs seeds, shortens those that fail, and counts what happened."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

from celery_saga.core.recovery import sweep
from tests.invariants import Invariant
from tests.simulator.ledger import Broken
from tests.simulator.schedule import Schedule, draw, shorten
from tests.simulator.world import World


@dataclass
class Totals:
    """What all runs of this process came to."""

    seeds: int = 0
    failed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0

    def add(
        self,
        seeds: int = 0,
        failed: int = 0,
        counts: Mapping[str, int] | None = None,
        longest: float = 0.0,
    ) -> None:
        """What other runs came to, as :meth:`plain` in their process."""
        self.seeds += seeds
        self.failed += failed
        self.counts += Counter(counts)
        self.longest = max(self.longest, longest)

    def plain(self) -> dict[str, Any]:
        """The same, in plain values."""
        return {**vars(self), "counts": dict(self.counts)}


TOTALS = Totals()


@contextmanager
def quiet() -> Iterator[None]:
    """The engine's log is off: faults would fill it."""
    logger = logging.getLogger("celery_saga")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def clock_of(world: World) -> Iterator[None]:
    """The sweeper's own clock is the world's."""
    before = sweep.time
    sweep.time = SimpleNamespace(monotonic=lambda: world.clock)  # type: ignore[assignment]
    try:
        yield
    finally:
        sweep.time = before


class Outcome(NamedTuple):
    """What came of one schedule.

    Args:
        broken: what went wrong, in words; empty if nothing did.
        invariant: the one that was broken; ``None``: none, or an error broke the run off.
    """

    world: World
    broken: str = ""
    invariant: Invariant | None = None


def outcome_of(schedule: Schedule) -> Outcome:
    """Run a schedule."""
    world = World(schedule)
    try:
        with clock_of(world):
            world.run()
    except Broken as broken:
        return Outcome(world, str(broken), broken.invariant)
    except Exception as error:
        return Outcome(world, f"{type(error).__name__}: {error}")
    return Outcome(world)


def run(seeds: Iterable[int], of: Callable[[int], Schedule] = draw) -> str:
    """Run seeds until one fails.

    Args:
        of: the schedule of a seed.

    Returns:
        The short history of the one that failed, and how to repeat it; empty if none did.
    """
    with quiet():
        for seed in seeds:
            schedule = of(seed)
            world, broken, _ = outcome_of(schedule)
            TOTALS.add(1, int(bool(broken)), world.counts, world.longest)
            if broken:
                return _explained(schedule, broken)
    return ""


def _explained(schedule: Schedule, broken: str) -> str:
    short = shorten(schedule, lambda other: outcome_of(other).broken == broken)
    world = World(short, trace=True)
    error = ""
    try:
        with clock_of(world):
            world.run()
    except (Broken, Exception) as raised:
        error = str(raised)
    history = [line for line in world.history if not _dull(line)]
    shapes = ", ".join(map(repr, short.shapes))
    return "\n".join(
        [
            f"seed {schedule.seed}, sagas {shapes}: {error}",
            *history[:100],
            f"repeat it with: python -m tests.simulator --seeds 1 --start {schedule.seed}"
            + " --trees" * schedule.trees,
        ]
    )


def _dull(line: str) -> bool:
    return line.endswith(" beats")


def _checks() -> int:
    return sum(count for name, count in TOTALS.counts.items() if name.startswith("checked "))


def report() -> str:
    """What was run so far, in a few lines."""
    if not TOTALS.seeds:
        return ""
    parts: dict[str, list[str]] = {"event": [], "fault": [], "ended": [], "met": []}
    for name, count in sorted(TOTALS.counts.items(), key=lambda item: -item[1]):
        part, _, kind = name.partition(" ")
        if part in parts:
            parts[part].append(f"{kind} {count}")
    sums = {part: sum(int(each.split()[-1]) for each in each_of) for part, each_of in parts.items()}
    return "\n".join(
        [
            f"{TOTALS.seeds} seeds, {TOTALS.failed} failed; {_checks()} checks",
            f"{sums['event']} events: {', '.join(parts['event'])}",
            f"{sums['fault']} faults at writes: {', '.join(parts['fault'])}",
            f"{sums['ended']} sagas: {', '.join(parts['ended'])}; {', '.join(parts['met'])}; "
            f"longest wait for recovery {TOTALS.longest:g} s",
        ]
    )
