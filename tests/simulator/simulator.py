"""Runs seeds, shortens those that fail, and counts what happened."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from celery_saga.core.recovery import sweep
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
        """What other runs came to, as :meth:`told` by their process."""
        self.seeds += seeds
        self.failed += failed
        self.counts += Counter(counts)
        self.longest = max(self.longest, longest)

    def told(self) -> dict[str, Any]:
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


def broken_by(schedule: Schedule) -> tuple[str, World]:
    """The promise that a run breaks, if it does, and the world afterwards."""
    world = World(schedule)
    try:
        with clock_of(world):
            world.run()
    except Broken as broken:
        return str(broken), world
    except Exception as error:
        return f"{type(error).__name__}: {error}", world
    return "", world


def run(seeds: Iterable[int]) -> str:
    """Run seeds until one fails.

    Returns:
        The short history of the one that failed, and how to repeat it; empty if none did.
    """
    with quiet():
        for seed in seeds:
            schedule = draw(seed)
            promise, world = broken_by(schedule)
            TOTALS.add(1, int(bool(promise)), world.counts, world.longest)
            if promise:
                return _explained(schedule, promise)
    return ""


def _explained(schedule: Schedule, promise: str) -> str:
    short = shorten(schedule, lambda other: broken_by(other)[0] == promise)
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
            f"repeat it with: python -m tests.simulator --seeds 1 --start {schedule.seed}",
        ]
    )


def _dull(line: str) -> bool:
    return line.endswith(" beats")


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
            f"{TOTALS.seeds} seeds, {TOTALS.failed} failed; {TOTALS.counts['checks']} checks",
            f"{sums['event']} events: {', '.join(parts['event'])}",
            f"{sums['fault']} faults at writes: {', '.join(parts['fault'])}",
            f"{sums['ended']} sagas: {', '.join(parts['ended'])}; {', '.join(parts['met'])}; "
            f"longest wait for recovery {TOTALS.longest:g} s",
        ]
    )
