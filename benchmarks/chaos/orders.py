"""What each saga is to do, from a seed: the same seed gives the same sagas."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from benchmarks.chaos.shapes import ALTERNATIVES, ITEMS, LOOPS, TREE, step_name

#: The tasks that steps are made of, and how often each is taken.
KINDS = {"late": 40, "early": 20, "requeued": 10, "declining": 20, "retried": 10}

#: Seconds of a body before and after its effect: the mean of the usual ones, and of the long ones,
#: one pause in forty.
USUAL, LONG = 0.002, 0.2


@dataclass(frozen=True)
class Order:
    """One saga.

    Args:
        saga_id: its id.
        kinds: the task of each step, see :mod:`benchmarks.chaos.app`.
        pivot: whether the last step is the pivot, and has no compensation.
        fails: the step that fails, if one does.
        aborts: whether that failure is an ``AbortSaga``.
        stumbles: whether the first attempt of each compensation fails.
        cancelled: seconds after its start at which it is cancelled, if so.
        pauses: seconds before and after the effect, of each step.
        shape: one of :data:`benchmarks.chaos.shapes.SHAPES`.
        first: whether the choice of a tree takes its first alternative.
    """

    saga_id: str
    kinds: tuple[str, ...]
    pivot: bool = False
    fails: int | None = None
    aborts: bool = False
    stumbles: bool = False
    cancelled: float | None = None
    pauses: tuple[tuple[float, float], ...] = ()
    shape: str = "linear"
    first: bool = True

    @property
    def chosen(self) -> tuple[int, ...]:
        """The numbers of the steps that are to run: all, but for the alternative not taken."""
        left_out = ALTERNATIVES[self.first] if self.shape == "tree" else None
        return tuple(step for step in range(len(self.kinds)) if step != left_out)

    @property
    def needs_compensation(self) -> int:
        """How many steps have a compensation: all, or all but the last."""
        return len(self.kinds) - self.pivot

    def context(self) -> dict[str, Any]:
        """The context, which says what the bodies do."""
        work: dict[str, Any] = {}
        for index, pauses in enumerate(self.pauses):
            work[step_name(index)] = {"pauses": list(pauses)}
        if self.fails is not None:
            work[step_name(self.fails)]["fails"] = "abort" if self.aborts else "error"
        if self.shape == "tree":
            work["choice"] = {"first": self.first, "pause": self.pauses[-1][0]}
            return {"work": work, "stumbles": self.stumbles, "lines": list(range(ITEMS))}
        return {"work": work, "stumbles": self.stumbles}


def make_order(seed: int, number: int, shape: str = "linear") -> Order:
    """The ``number``th saga of a seed."""
    source = random.Random(f"{seed}/{number}" if shape == "linear" else f"{seed}/{number}/{shape}")
    length = source.choice((2, 3, 3, 3, 4, 5)) if shape == "linear" else len(TREE)
    kinds = source.choices(list(KINDS), list(KINDS.values()), k=length)
    first = shape == "linear" or source.random() < 0.5
    if shape == "tree":
        for loop in LOOPS:  # all items have the task of the first
            kinds[loop : loop + ITEMS] = [kinds[loop]] * ITEMS
    pivot = source.random() < 0.3
    if pivot and kinds[-1] == "declining":
        # A pivot that declines after a lost attempt leaves its saga stuck, as it should: it has no
        # compensation. So pivots neither decline nor fail here.
        kinds[-1] = "late"
    fails = source.randrange(length - pivot) if source.random() < 0.25 else None
    if shape == "tree" and fails == ALTERNATIVES[first]:
        fails = ALTERNATIVES[not first]
    return Order(
        saga_id=f"chaos-{seed}-{number}",
        kinds=tuple(kinds),
        pivot=pivot,
        fails=fails,
        aborts=source.random() < 0.2,
        stumbles=source.random() < 0.05,
        cancelled=round(source.uniform(0, 5), 2) if source.random() < 0.03 else None,
        pauses=tuple((_pause(source), _pause(source)) for _ in kinds),
        shape=shape,
        first=first,
    )


def _pause(source: random.Random) -> float:
    mean = LONG if source.random() < 1 / 40 else USUAL
    return round(min(1.0, source.expovariate(1 / mean)), 4)
