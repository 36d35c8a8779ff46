"""Compares what the engine reports with what the bodies did. Pure: no clock, no server.

An effect exists from the line that records it until a compensation of its step has its effect. What
a saga's status claims must be the case; and each body that ran more often than once must have had a
reason to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.chaos.causes import REPORT, Faults, duplicates
from benchmarks.chaos.ledger import COMPENSATION, FORWARD, Line
from benchmarks.chaos.orders import Order
from benchmarks.chaos.shapes import precedes, reversed_freely

#: Celery's state of the result of a saga, by the saga's status.
RESULTS = {"COMPLETED": "SUCCESS", "COMPENSATED": "FAILURE"}


@dataclass(frozen=True)
class Reported:
    """What the engine reported about a saga.

    Args:
        status: its last status, empty if the saga does not exist.
        result: the state of its Celery result.
        cancelled: whether it took a cancel.
        error: what it failed of.
    """

    status: str
    result: str = ""
    cancelled: bool = False
    error: str = ""


@dataclass
class Verdict:
    """The verdict on one saga.

    Args:
        kind: ``completed``, ``compensated``, ``inconsistent`` or ``stuck``.
        reasons: why it is one of the last two.
        false: whether its status is better than the truth.
        duplicates: causes of effects that came more than once under one key.
        late: effects that came when their step had been compensated; all were compensated again,
            if the kind is a good one.
    """

    order: Order
    reported: Reported
    kind: str = ""
    reasons: list[str] = field(default_factory=list)
    false: bool = False
    duplicates: Counter[str] = field(default_factory=Counter)
    late: int = 0


def verdict_on(order: Order, reported: Reported, lines: Sequence[Line], faults: Faults) -> Verdict:
    """The verdict on one saga.

    Args:
        lines: the ledger's lines about it, in order.
    """
    found = Verdict(order, reported)
    found.reasons += _broken(order, reported, lines, faults)
    existing, found.late = _effects(order, lines)
    _compare(found, existing)
    found.duplicates = Counter(duplicates(lines, faults, order.shape))
    if found.kind != "stuck":
        found.kind = "inconsistent" if found.reasons else reported.status.lower()
    return found


def _compare(found: Verdict, existing: Sequence[bool]) -> None:
    """Compare the status with the effects that exist."""
    reported, reasons = found.reported, found.reasons
    if reported.status == "COMPLETED":
        if not all(existing[step] for step in found.order.chosen):
            reasons.append("COMPLETED, and an effect is missing")
            found.false = True
        if reported.cancelled:
            reasons.append("COMPLETED, and it took a cancel")
            found.false = True
    elif reported.status == "COMPENSATED":
        if any(existing):
            reasons.append("COMPENSATED, and an effect exists")
            found.false = True
    else:
        found.kind = "stuck"
        reasons.append(f"not settled: {reported.status or 'missing'} {reported.error}".rstrip())
        return
    if reported.result != RESULTS[reported.status]:
        reasons.append(f"{reported.status}, and its result is {reported.result or 'missing'}")
        found.false = found.false or reported.result == "SUCCESS"


def _effects(order: Order, lines: Sequence[Line]) -> tuple[list[bool], int]:
    """Which steps' effects exist at the end, and how many came after their compensation."""
    existing, compensated, late = [False] * len(order.kinds), set(), 0
    for line in lines:
        if line.what != "effect":
            continue
        existing[line.step] = line.direction == FORWARD
        if line.direction == COMPENSATION:
            compensated.add(line.forward_key)
        elif line.key in compensated:
            late += 1
    return existing, late


def _broken(order: Order, reported: Reported, lines: Sequence[Line], faults: Faults) -> list[str]:
    """Promises about the order of events that were not kept."""
    course = _Course(order, faults)
    for line in lines:
        course.see(line)
    if reported.status == "COMPLETED" and course.first_compensation is not None:
        course.reasons.append("COMPLETED, and a compensation ran")
    return sorted(set(course.reasons))


class _Course:
    """The course of one saga, line by line."""

    def __init__(self, order: Order, faults: Faults) -> None:
        self._order, self._faults = order, faults
        self._began: dict[tuple[str, int], float] = {}
        self.reasons: list[str] = []
        #: The line that begins the first compensation.
        self.first_compensation: Line | None = None
        #: Steps whose effect came forward and is not compensated yet.
        self._open: set[int] = set()
        #: Forward bodies by their step: their last line.
        self._bodies: dict[int, dict[int, Line]] = {}
        self._begun: Counter[str] = Counter()
        #: When the first body of each step began.
        self._first: dict[int, float] = {}

    def see(self, line: Line) -> None:
        if line.direction == FORWARD:
            self._forward(line)
        else:
            self._compensation(line)

    def _forward(self, line: Line) -> None:
        if line.what == "began":
            self._began[line.key, line.pid] = line.at
        began = self._began.get((line.key, line.pid), line.at)
        zombie = self._faults.stopped(line.worker, began, line.at)
        if self.first_compensation is not None and not zombie:
            self.reasons.append("a step ran while its saga was rolled back")
        self._bodies.setdefault(line.step, {})[line.pid] = line
        if line.what == "began":
            self._begins(line, zombie)
        elif line.what == "effect" and self.first_compensation is None:
            self._open.add(line.step)

    def _begins(self, line: Line, zombie: bool) -> None:
        if line.step not in self._order.chosen:
            self.reasons.append("an alternative ran that was not taken")
        if not zombie and not self._open.issuperset(self._before(line.step)):
            self.reasons.append("a step began before the one before it had its effect")
        self._begun[line.key] += 1
        self._first.setdefault(line.step, line.at)
        is_pivot = self._order.pivot and line.step == len(self._order.kinds) - 1
        if self._order.kinds[line.step] == "early" and not is_pivot and self._begun[line.key] > 1:
            self.reasons.append("an early step ran twice")

    def _before(self, step: int) -> list[int]:
        """The steps that must be over before one is sent."""
        shape = self._order.shape
        return [each for each in self._order.chosen if precedes(shape, each, step)]

    def _is_later(self, other: int, step: int) -> bool:
        """Whether the effect of another step has to be compensated before that of a step.

        Without an order in the plan, that is so if the other began when the step had been reported.
        """
        shape = self._order.shape
        if other == step or other >= self._order.needs_compensation:
            return False
        if precedes(shape, step, other):
            return True
        if precedes(shape, other, step) or reversed_freely(shape, step, other):
            return False
        return self._was_reported(step, self._first.get(other, 0.0))

    def _was_reported(self, step: int, before: float) -> bool:
        """Whether the engine must have had the report of a step at that time."""
        for body in self._bodies.get(step, {}).values():
            if body.what != "ended" or body.at + REPORT > before:
                return False
            stopped = self._faults.stopped(body.worker, body.at, before)
            if stopped or self._faults.end_of(body, before):
                return False
            if self._faults.between(body.at, before):
                return False
        return bool(self._bodies.get(step))

    def _compensation(self, line: Line) -> None:
        if self.first_compensation is None:
            self.first_compensation = line
        if line.what == "began" and not self._may_be_compensated(line):
            self.reasons.append("a step was compensated that had left nothing")
        if line.what != "effect":
            return
        if any(self._is_later(other, line.step) for other in self._open):
            self.reasons.append("a compensation ran before that of a later step")
        self._open.discard(line.step)

    def _may_be_compensated(self, line: Line) -> bool:
        """Whether a step may be compensated: not if all of its bodies recorded a clean failure.

        A process may have died between the claim and the body's first line, or between its last
        line and the report: then the engine cannot know, and has to compensate it.
        """
        bodies = self._bodies.get(line.step, {}).values()
        if any(body.what not in ("declined", "failed") for body in bodies):
            return True
        before = [self._bodies.get(step, {}) for step in self._before(line.step)]
        if not all(before):
            return False  # it cannot have been sent
        sent = max((body.at for found in before for body in found.values()), default=0.0)
        return self._faults.interrupted(sent, line.at)
