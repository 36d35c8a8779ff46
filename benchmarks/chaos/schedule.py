"""The faults of a run, from a seed: the same seed gives the same faults.

A fault's time is a number of sagas that have ended, not a number of seconds, so a slow machine
gets the same mix. What it hits is a fraction, of whatever there is to choose from at that moment.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

#: What is killed by SIGKILL, and how often each is chosen.
KILLS = {"child": 50, "worker": 30, "server": 20}

#: Faults that kill nothing, for each kill.
OTHERS = {
    "stop": 0.3,  # a whole worker by SIGSTOP, for longer or shorter than it may be silent
    "duplicate": 0.5,  # messages in the queue are put there once more
    "late duplicate": 0.25,  # the same, when their steps may be over
    "lose": 0.3,  # messages are removed from the queue
    "cut": 0.15,  # connections are closed, or a reply is lost
}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        after: how many sagas have ended when it comes.
        kind: a key of :data:`KILLS` or :data:`OTHERS`.
        pick: 0 to 1, which of the possible targets it hits.
        stage: how far the body of a process is that is killed or stopped, if there is one:
            ``began`` or ``effect``.
        seconds: for how long, where that means something: until a worker or server is started
            again, a stopped worker continues, or a late duplicate comes.
        count: how many messages, or at which answer from now a connection is cut.
    """

    after: int
    kind: str
    pick: float
    stage: str = "began"
    seconds: float = 0.0
    count: int = 1


def make_schedule(seed: int, sagas: int, kills: int) -> tuple[Fault, ...]:
    """The faults of a run in their order.

    Args:
        seed: of all choices.
        sagas: how many there are; the last tenth of them sees no new fault.
        kills: how many SIGKILLs; the other faults come in proportion.
    """
    source = random.Random(f"faults/{seed}")
    kinds = _in_proportion(KILLS, kills)
    for kind, share in OTHERS.items():
        kinds += [kind] * max(1 if kills else 0, round(kills * share))
    faults = [_fault(source, kind, int(sagas * 0.9)) for kind in kinds]
    return tuple(sorted(faults, key=lambda fault: fault.after))


def _in_proportion(weights: dict[str, int], count: int) -> list[str]:
    """So many kinds, each as often as its weight says; what is left goes to the first ones."""
    total = sum(weights.values())
    found = [kind for kind, weight in weights.items() for _ in range(count * weight // total)]
    return found + list(weights)[: count - len(found)]


def _fault(source: random.Random, kind: str, last: int) -> Fault:
    hit = (source.randrange(max(1, last)), kind, source.random())
    stage = source.choice(("began", "effect"))
    if kind == "stop":
        # Shorter and longer than the six seconds after which a silent worker counts as dead.
        long = source.random() < 0.5
        return Fault(*hit, stage, source.uniform(7, 11) if long else source.uniform(0.2, 4))
    if kind == "server":
        # One in ten is unavailable for longer than a worker may be silent.
        long = source.random() < 0.1
        return Fault(*hit, stage, source.uniform(6, 8) if long else source.uniform(0, 2))
    if kind == "cut":
        return Fault(*hit, stage, count=source.randint(1, 20))
    return Fault(*hit, stage, source.uniform(0.2, 3), source.randint(1, 3))
