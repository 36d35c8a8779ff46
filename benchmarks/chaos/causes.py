"""What the faults may have caused: why an effect came twice. Pure: no clock, no server."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.chaos.injector import Happened
from benchmarks.chaos.ledger import FORWARD, Line
from benchmarks.chaos.shapes import path_of, precedes

#: Causes of a second effect with the same key that the library does not promise to prevent: a
#: process was lost, or counted as dead, between the effect and the record of it.
EXCUSED = ("killed child", "killed worker", "ended worker", "stopped worker")

#: Seconds that may lie between a claim and the first line of its body.
CLAIM = 2.0

#: Seconds from the last line of a body until the engine has its report, unless the store is
#: unavailable.
REPORT = 1.0


class Faults:
    """The injected faults, by the worker or message that they hit."""

    def __init__(self, log: Iterable[Happened]) -> None:
        self._workers: dict[int, list[Happened]] = defaultdict(list)
        self._messages: dict[str, set[str]] = defaultdict(set)
        self._others: list[Happened] = []
        for each in log:
            if each.worker:
                self._workers[each.worker].append(each)
            elif each.refs:
                for ref in each.refs:
                    self._messages[ref.rpartition("~")[0]].add(each.kind)
            else:
                self._others.append(each)

    def end_of(self, line: Line, until: float) -> str:
        """How the process that wrote a line came to its end before ``until``, or ``""``."""
        for each in self._workers[line.worker]:
            if line.at <= each.at <= until:
                if each.kind == "child" and each.pid == line.pid:
                    return "killed child"
                if each.kind in ("worker", "ended"):
                    return "killed worker" if each.kind == "worker" else "ended worker"
        return ""

    def stopped(self, worker: int, begin: float, end: float) -> bool:
        """Whether a worker was stopped for some of that time, or shortly before."""
        return any(
            each.kind == "stop" and each.at <= end and (each.until or end) >= begin - CLAIM
            for each in self._workers[worker]
        )

    def interrupted(self, begin: float, end: float) -> bool:
        """Whether any process was ended or stopped in that time."""
        return any(
            each.at <= end and (each.until or each.at) >= begin
            for log in self._workers.values()
            for each in log
        )

    def of_message(self, line: Line, shape: str) -> set[str]:
        """What became of messages of a line's step."""
        path = ".".join(map(str, path_of(shape, line.step)))
        return self._messages[f"{line.saga_id}~{line.direction}{path}"]

    def between(self, begin: float, end: float) -> str:
        """What else happened in that time."""
        for each in self._others:
            if each.at <= end and (each.until or each.at) >= begin:
                return {"server": "killed server", "cut": "cut connection"}[each.kind]
        return ""


def duplicates(lines: Sequence[Line], faults: Faults, shape: str = "linear") -> list[str]:
    """The cause of each effect beyond a key's first."""
    found = []
    began: dict[tuple[str, int], float] = {}
    effects: dict[str, _Effect] = {}
    for line in lines:
        if line.what == "began":
            began[line.key, line.pid] = line.at
        if line.what != "effect":
            continue
        effect = _Effect(line, began.get((line.key, line.pid), line.at))
        if line.key in effects:
            found.append(_cause(effects[line.key], effect, lines, faults, shape))
        effects[line.key] = effect
    return found


class _Effect(NamedTuple):
    """An effect, and when its body began."""

    line: Line
    began: float


def _cause(
    one: _Effect,
    other: _Effect,
    lines: Sequence[Line],
    faults: Faults,
    shape: str,
) -> str:
    """Why the second effect came although there was the first."""
    first, second = one.line, other.line
    effect_tokens = min(_end_of(first, lines) + REPORT, second.at)
    for each, until in ((one, effect_tokens), (other, second.at)):
        if faults.stopped(each.line.worker, each.began, until):
            return "stopped worker"
    recorded = any(
        precedes(shape, first.step, line.step) and first.at < line.at < second.at
        for line in lines
        if line.direction == first.direction == FORWARD
    )
    if recorded:
        return "after its record"
    ended = faults.end_of(first, second.at)
    if ended:
        return ended
    messages = faults.of_message(second, shape)
    if "duplicate" in messages:
        return "duplicated message"
    if "lose" in messages:
        return "lost message"
    return faults.between(first.at, second.at) or "unexplained"


def _end_of(effect: Line, lines: Sequence[Line]) -> float:
    """When the body that had an effect recorded its end; never, if it was aborted."""
    same = (effect.key, effect.pid)
    ends = [line.at for line in lines if (line.key, line.pid, line.what) == (*same, "ended")]
    return min((at for at in ends if at >= effect.at), default=math.inf)
