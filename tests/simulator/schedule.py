"""What happens in a simulated world, as data: drawn from a seed, and shortened when it fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.core.walk_trees import Tree

#: Kind of event -> how often it is drawn. The first ones are the ordinary course of things.
ORDINARY = {
    "start": 1.0,
    "deliver": 40.0,
    "begin": 40.0,
    "succeed": 30.0,
    "beat": 8.0,
    "wait": 8.0,
}
UNUSUAL = {
    "happen": 8.0,
    "fail": 3.0,
    "fail_with_effect": 4.0,
    "abort": 0.5,
    "retry": 6.0,
    "requeue": 2.0,
    "report_again": 4.0,
    "lose_message": 3.0,
    "copy_message": 5.0,
    "replay_message": 3.0,
    "kill_child": 6.0,
    "kill_worker": 1.0,
    "start_worker": 2.0,
    "stop_heartbeat": 1.0,
    "resume_heartbeat": 2.0,
    "jump": 1.0,
    "jump_back": 0.5,
    "forget_task": 2.0,
    "revoke": 1.0,
    "cancel": 0.7,
    "pause": 0.5,
    "resume": 2.0,
    "operator_retry": 2.0,
    "operator_skip": 0.5,
}
#: What may go wrong at a write: the process dies, the store or broker is unavailable, its answer is
#: lost and the call repeated, others come in between, or the script with the message is refused.
FAULTS = (
    "die_before",
    "die_after",
    "unavailable_before",
    "unavailable_after",
    "answer_lost",
    "others_first",
    "outbox_refused",
    "unsendable",
)

SHAPES = (
    "a",
    "a!",
    "a b",
    "a! b",
    "a b!",
    "a- b",
    "a b c",
    "a b! c",
    "a b- c",
    "a b%2 c!",
    "a b c d",
    "a! b! c! d!",
    "a b!-",
    "a b? c-!",
    "a*",
    "a* b^",
    "a b* c^",
    "a b! c* d^",
    "a b c* d%3 e^",
    "a b c d e",
)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong at one of the writes during an event."""

    kind: str
    write: int
    others: tuple[Event, ...] = ()

    def __str__(self) -> str:
        others = f" ({'; '.join(map(str, self.others))})" if self.others else ""
        return f"{self.kind} at write {self.write}{others}"


@dataclass(frozen=True)
class Event:
    """Something that happens; ``pick`` says to whom, out of those to whom it can happen."""

    kind: str
    pick: int = 0
    fault: Fault | None = None


@dataclass(frozen=True)
class Schedule:
    """One run.

    Args:
        shapes: of the sagas, in the words of :mod:`tests.core.scenario`, or trees.
        deadline: of all of them, in seconds.
        outbox: whether store and broker share a server.
        result: whether the sagas have results, and callbacks.
        standstill: whether all workers stop for a while in the midst of it.
        silent_die: whether workers without a heartbeat are killed at the end, or send them again.
        events: in order.
        trees: whether :func:`draw_trees` made it.
    """

    seed: int
    shapes: tuple[str | Tree, ...]
    deadline: float | None
    countdown: float | None
    outbox: bool
    result: bool
    standstill: bool
    silent_die: bool
    events: tuple[Event, ...]
    trees: bool = False


def draw_trees(seed: int) -> Schedule:
    """The schedule of a seed, for sagas with branches, choices, loops and waits."""
    schedule, generator = draw(seed), random.Random(f"trees {seed}")
    shapes = tuple(Tree.drawn(generator, generator.randint(2, 6)) for _ in schedule.shapes)
    events = list(schedule.events)
    for _ in range(len(events) // 20):
        place = generator.randrange(len(shapes), len(events) + 1)
        events.insert(place, Event("signal", generator.randrange(60)))
    return replace(schedule, shapes=shapes, events=tuple(events), trees=True)


def draw(seed: int) -> Schedule:
    """The schedule of a seed.

    Each seed uses its own part of what can go wrong: rare things meet more often that way.
    """
    generator = random.Random(seed)
    unusual = {kind: often for kind, often in UNUSUAL.items() if generator.random() < 0.5}
    faults = [kind for kind in FAULTS if generator.random() < 0.5]
    scales = {kind: generator.choice((0.2, 1.0, 3.0)) for kind in UNUSUAL} | {"succeed": 1.0}
    if "stop_heartbeat" in unusual:
        scales |= {"succeed": 0.2, "jump": 3.0}  # so that bodies outlive their claims
    weights = {kind: often * scales.get(kind, 1.0) for kind, often in (ORDINARY | unusual).items()}
    kinds = generator.choices(list(weights), list(weights.values()), k=generator.randint(100, 400))
    faulty = generator.choice((0.0, 0.1, 0.3)) if faults else 0.0
    shapes = tuple(generator.choices(SHAPES, k=generator.choice((1, 2, 3))))
    return Schedule(
        seed,
        shapes,
        generator.choice((None, None, None, 30.0, 90.0)),
        generator.choice((None, None, None, 5.0)),
        generator.random() < 0.5,
        # Not drawn from the generator: seeds that are known keep their schedules.
        seed % 3 != 0,
        seed % 4 == 1,
        generator.random() < 0.5,
        tuple(
            _event(generator, kind, list(weights), faults, faulty)
            for kind in ["start"] * len(shapes) + kinds
        ),
    )


def _event(
    generator: random.Random, kind: str, kinds: list[str], faults: list[str], faulty: float
) -> Event:
    event = Event(kind, generator.randrange(60))
    if generator.random() >= faulty:
        return event
    fault = Fault(generator.choice(faults), generator.choice((0, 0, 0, 1, 1, 2)))
    if fault.kind in ("answer_lost", "others_first"):
        others = generator.choices(kinds, k=generator.randint(1, 4))
        inside = tuple(Event(other, generator.randrange(60)) for other in others)
        fault = replace(fault, others=inside)
    return replace(event, fault=fault)


def shorten(schedule: Schedule, fails: Callable[[Schedule], bool], runs: int = 3_000) -> Schedule:
    """Leave out events and faults for as long as the run still fails.

    Args:
        schedule: one that fails.
        fails: whether another one fails in the same way.
        runs: how many others are tried at most.
    """
    size = max(1, len(schedule.events) // 2)
    while runs > 0:
        before = schedule
        for start in range(len(schedule.events) - size, -1, -size):
            events = schedule.events[:start] + schedule.events[start + size :]
            shorter = replace(schedule, events=events)
            runs -= 1
            if fails(shorter):
                schedule = shorter
        schedule, tried = _without_faults(schedule, fails)
        runs -= tried
        if size == 1 and schedule == before:
            break
        size = max(1, size // 2)
    return schedule


def _without_faults(schedule: Schedule, fails: Callable[[Schedule], bool]) -> tuple[Schedule, int]:
    tried = 0
    for index, event in enumerate(schedule.events):
        for simpler in _simpler(event):
            events = (*schedule.events[:index], simpler, *schedule.events[index + 1 :])
            tried += 1
            if fails(replace(schedule, events=events)):
                schedule = replace(schedule, events=events)
                break
    return schedule, tried


def _simpler(event: Event) -> list[Event]:
    if event.fault is None:
        return []
    others = event.fault.others
    fewer = [others[:index] + others[index + 1 :] for index in range(len(others))]
    return [
        replace(event, fault=None),
        *(replace(event, fault=replace(event.fault, others=part)) for part in fewer),
    ]
