"""Holds what the engine reports against what the bodies did. Pure: no clock, no server.

An effect stands from the line that says so until an undo of its step says so. What a saga's status
claims must be the case; and each body that ran more often than once must have had a reason to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.chaos.causes import Faults, duplicates
from benchmarks.chaos.ledger import COMPENSATION, FORWARD, Line
from benchmarks.chaos.orders import Order

#: Celery's state of the result of a saga, by the saga's status.
RESULTS = {"COMPLETED": "SUCCESS", "COMPENSATED": "FAILURE"}


@dataclass(frozen=True)
class Told:
    """What the engine said of a saga.

    Args:
        status: its last status, empty if there is no such saga.
        result: the state of its Celery result.
        cancelled: whether it took a cancel.
        error: what it failed of, as it says.
    """

    status: str
    result: str = ""
    cancelled: bool = False
    error: str = ""


@dataclass
class Verdict:
    """One saga's.

    Args:
        kind: ``completed``, ``compensated``, ``inconsistent`` or ``stuck``.
        reasons: why it is one of the last two.
        false: whether its status is better than the truth.
        duplicates: causes of effects that came more than once under one key.
        late: effects that came when their step had been undone; all were undone again, if the kind
            is a good one.
    """

    order: Order
    told: Told
    kind: str = ""
    reasons: list[str] = field(default_factory=list)
    false: bool = False
    duplicates: Counter[str] = field(default_factory=Counter)
    late: int = 0


def judge(order: Order, told: Told, lines: Sequence[Line], faults: Faults) -> Verdict:
    """The verdict on one saga.

    Args:
        lines: the ledger's lines about it, in order.
    """
    found = Verdict(order, told)
    found.reasons += _broken(order, told, lines, faults)
    standing, found.late = _effects(order, lines)
    _hold(found, standing)
    found.duplicates = Counter(duplicates(lines, faults))
    if found.kind != "stuck":
        found.kind = "inconsistent" if found.reasons else told.status.lower()
    return found


def _hold(found: Verdict, standing: Sequence[bool]) -> None:
    """The status against the effects that stand."""
    told, reasons = found.told, found.reasons
    undone = len(standing) - sum(standing)
    if told.status == "COMPLETED":
        if undone:
            reasons.append("COMPLETED, and an effect does not stand")
            found.false = True
        if told.cancelled:
            reasons.append("COMPLETED, and it took a cancel")
            found.false = True
    elif told.status == "COMPENSATED":
        if any(standing):
            reasons.append("COMPENSATED, and an effect stands")
            found.false = True
    else:
        found.kind = "stuck"
        reasons.append(f"not settled: {told.status or 'gone'} {told.error}".rstrip())
        return
    if told.result != RESULTS[told.status]:
        reasons.append(f"{told.status}, and its result is {told.result or 'missing'}")
        found.false = found.false or told.result == "SUCCESS"


def _effects(order: Order, lines: Sequence[Line]) -> tuple[list[bool], int]:
    """Which steps' effects stand at the end, and how many came after their undo."""
    standing, undone, late = [False] * len(order.kinds), set(), 0
    for line in lines:
        if line.what != "effect":
            continue
        standing[line.step] = line.direction == FORWARD
        if line.direction == COMPENSATION:
            undone.add(line.forward_key)
        elif line.key in undone:
            late += 1
    return standing, late


def _broken(order: Order, told: Told, lines: Sequence[Line], faults: Faults) -> list[str]:
    """Promises about the course of things that were not kept."""
    course = _Course(order, faults)
    for line in lines:
        course.see(line)
    if told.status == "COMPLETED" and course.undoing is not None:
        course.reasons.append("COMPLETED, and an undo ran")
    return sorted(set(course.reasons))


class _Course:
    """The course of one saga, line by line."""

    def __init__(self, order: Order, faults: Faults) -> None:
        self._order, self._faults = order, faults
        self._began: dict[tuple[str, int], float] = {}
        self.reasons: list[str] = []
        #: The line that begins the first undo.
        self.undoing: Line | None = None
        #: Steps whose effect came on the way forward and is not undone yet.
        self._open: set[int] = set()
        #: Bodies on the way forward by their step: what they said last.
        self._bodies: dict[int, dict[int, Line]] = {}
        self._begun: Counter[str] = Counter()

    def see(self, line: Line) -> None:
        if line.direction == FORWARD:
            self._forward(line)
        else:
            self._backward(line)

    def _forward(self, line: Line) -> None:
        if line.what == "began":
            self._began[line.key, line.pid] = line.at
        began = self._began.get((line.key, line.pid), line.at)
        zombie = self._faults.stopped(line.worker, began, line.at)
        if self.undoing is not None and not zombie:
            self.reasons.append("a step ran when its saga was being undone")
        self._bodies.setdefault(line.step, {})[line.pid] = line
        if line.what == "began":
            self._begins(line, zombie)
        elif line.what == "effect" and self.undoing is None:
            self._open.add(line.step)

    def _begins(self, line: Line, zombie: bool) -> None:
        if not zombie and not self._open.issuperset(range(line.step)):
            self.reasons.append("a step began before the one before it had its effect")
        self._begun[line.key] += 1
        is_pivot = self._order.pivot and line.step == len(self._order.kinds) - 1
        if self._order.kinds[line.step] == "early" and not is_pivot and self._begun[line.key] > 1:
            self.reasons.append("an early step ran twice")

    def _backward(self, line: Line) -> None:
        if self.undoing is None:
            self.undoing = line
        if line.what == "began" and not self._may_be_compensated(line):
            self.reasons.append("a step was undone that had left nothing")
        if line.what != "effect":
            return
        if any(above > line.step for above in self._open if above < self._order.needs_compensation):
            self.reasons.append("an undo ran before that of a later step")
        self._open.discard(line.step)

    def _may_be_compensated(self, line: Line) -> bool:
        """A step may be undone unless each body of it has said that it left nothing.

        A process may have died between the claim and the body's first line, or between its last
        line and the report: then the engine cannot know, and has to undo it.
        """
        bodies = self._bodies.get(line.step, {}).values()
        if any(body.what not in ("declined", "failed") for body in bodies):
            return True
        before = self._bodies.get(line.step - 1, {}).values()
        if line.step and not before:
            return False  # it cannot have been sent
        sent = max((body.at for body in before), default=0.0)
        return self._faults.cut_off(sent, line.at)
