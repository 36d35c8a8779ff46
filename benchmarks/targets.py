"""What the library aims at, as data: each a ratio or a number that a section measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Bounds of one measured number.

    Args:
        floor: worse than this is a defect; None where there is a goal only.
        goal: what the library aims at.
        better: ``"more"`` or ``"less"``, whichever way is better.
    """

    floor: float | None
    goal: float
    better: str

    def met(self, value: float) -> str:
        """``"goal"``, ``"floor"`` or ``"no"``: the best bound that ``value`` keeps."""
        sign = 1 if self.better == "more" else -1
        if value * sign >= self.goal * sign:
            return "goal"
        if self.floor is not None and value * sign >= self.floor * sign:
            return "floor"
        return "no"


TARGETS = {
    # Runs a second, as a multiple of the chain's.
    "rate 3 / chain": Target(1.1, 1.3, "more"),
    "rate 3 / chain-noresult": Target(1.0, 1.15, "more"),
    "rate 10 / chain": Target(1.1, 1.4, "more"),
    "rate 100 / chain": Target(1.5, 2.0, "more"),
    # Steps a second with many steps, as a multiple of those with few: it must not fall.
    "flat": Target(0.85, 0.85, "more"),
    # Runs a second with the store apart from the broker, as a multiple of the chain's.
    "two writes": Target(0.9, 1.05, "more"),
    # Round trips of a pool process for one step.
    "child trips": Target(3.0, 2.0, "less"),
    # Bytes into broker and store, as a multiple of the chain's.
    "bytes 3 / chain": Target(1.0, 0.8, "less"),
    "bytes 100 / chain": Target(0.25, 0.2, "less"),
    # Processor time of worker and servers, as a multiple of the chain's.
    "cpu / chain": Target(0.95, 0.75, "less"),
    # Median time from the start of one run on an idle worker to its last step.
    "latency": Target(1.2, 1.0, "less"),
    # Bytes of one more step with a context of 1 MB, as a multiple of the same with 1 KB.
    "context bytes": Target(1.2, 1.2, "less"),
    # Runs a second with a context of 1 MB, as a multiple of the chain's.
    "context rate": Target(None, 5.0, "more"),
    # Client's processor time for one start, as a multiple of the chain's.
    "start": Target(1.0, 0.5, "less"),
    # Time and cost of a compensation, as a multiple of a forward step's.
    "compensation": Target(1.2, 1.0, "less"),
    # Round trips of an idle worker in one heartbeat, without those of a plain worker.
    "idle": Target(3.0, 2.0, "less"),
    # Time of a transaction of two statements with a barrier, as a multiple of that without.
    "barrier": Target(None, 1.08, "less"),
}
