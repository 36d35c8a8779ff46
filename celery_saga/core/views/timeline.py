"""When the steps of a saga waited and ran, as bars on one line of time. Pure.

Long times in which nothing ran are folded, so that a saga that waited three days for a signal still
shows its steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from celery_saga.core.execution import Direction, SagaExecution
from celery_saga.core.plan import Path
from celery_saga.core.state import SagaStepExecution, StepRef, StepStatus

#: A time without a bar is folded if it is longer than this part of the time with bars, and than
#: these seconds; it then has the width of that part.
FOLDED_PART, FOLDED_SECONDS = 0.1, 1.0


@dataclass(frozen=True)
class Span:
    """One attempt at a step or its compensation, or the time for which its message waits.

    Args:
        kind: ``action``, ``compensation`` or ``queued``.
        outcome: of an attempt that ended, as in ``AttemptOutcome``; ``RUNNING``: it has not ended;
            empty: it waits.
        begun: store time, seconds since the epoch.
        ended: the same; of what has not ended the time of the view.
        number: of the attempt, from 1; 0: none began.
        node: the name of the worker; empty: a client, or none yet.
        error: type and text of the error; empty: there was none.
    """

    kind: str
    outcome: str
    begun: float
    ended: float
    number: int = 0
    node: str = ""
    error: str = ""


@dataclass(frozen=True)
class Fold:
    """A long time without any bar.

    Args:
        left: where it is, in percent of the whole width.
        width: of its mark, in percent.
        seconds: how long it was.
    """

    left: float
    width: float
    seconds: float


@dataclass(frozen=True)
class Scale:
    """Maps times to percent of the width; folds take little of it.

    Args:
        marks: times and their places, both rising; between two of them it is linear.
        folds: the times that are folded.
    """

    marks: tuple[tuple[float, float], ...]
    folds: tuple[Fold, ...] = ()

    def place(self, at: float) -> float:
        """Where a time is, 0 to 100."""
        first, last = self.marks[0], self.marks[-1]
        if at <= first[0]:
            return first[1]
        for (t0, p0), (t1, p1) in pairwise(self.marks):
            if at <= t1:
                return p1 if t1 <= t0 else p0 + (p1 - p0) * (at - t0) / (t1 - t0)
        return last[1]


def spans_of(execution: SagaExecution, path: Path, now: float) -> list[Span]:
    """The attempts at a step in the order of their claims, and what of it is under way."""
    record = execution.steps[path]
    found = [
        Span(
            "action" if each.direction is Direction.FORWARD else "compensation",
            each.outcome.value,
            each.claimed_at,
            each.ended_at,
            each.number,
            each.node,
            each.error,
        )
        for each in record.log
    ]
    first = min((span.begun for span in found), default=None)
    if record.started_at is not None and first is not None and record.started_at < first:
        found.insert(0, Span("queued", "", record.started_at, first))
    return [*found, *_under_way(record, execution.ref(path), now)]


def _under_way(record: SagaStepExecution, ref: StepRef | None, now: float) -> Iterator[Span]:
    if ref is None:
        if record.status is StepStatus.WAITING and record.started_at is not None:
            yield Span("queued", "", record.started_at, now)
        return
    kind = "action" if ref.direction is Direction.FORWARD else "compensation"
    sent, claim = record.expected_at, record.claim
    begun = now if claim is None else claim.at
    if sent is not None and sent < begun:
        yield Span("queued", "", sent, begun)
    if claim is not None:
        number = len(record.log) + 1
        yield Span(kind, "RUNNING", claim.at, max(now, claim.at), number, claim.node)


def scale_of(spans: Iterable[Span]) -> Scale:
    """A scale on which all of these have a place."""
    busy = _merged(spans)
    if not busy:
        return Scale(((0.0, 0.0),))
    total = sum(end - begin for begin, end in busy) or 1.0
    gaps = [after[0] - before[1] for before, after in pairwise(busy)]
    shown = [min(gap, FOLDED_PART * total) if _folded(gap, total) else gap for gap in gaps]
    unit = 100 / (total + sum(shown))
    marks, folds, place = [(busy[0][0], 0.0)], [], 0.0
    for number, (begin, end) in enumerate(busy):
        if number:
            gap, width = gaps[number - 1], unit * shown[number - 1]
            if _folded(gap, total):
                folds.append(Fold(place, width, gap))
            place += width
            marks.append((begin, place))
        place += unit * (end - begin)
        marks.append((end, place))
    return Scale(tuple(marks), tuple(folds))


def _folded(gap: float, total: float) -> bool:
    return gap > max(FOLDED_PART * total, FOLDED_SECONDS)


def _merged(spans: Iterable[Span]) -> Sequence[tuple[float, float]]:
    """The times in which there is a span, without overlaps, in order."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted((span.begun, span.ended) for span in spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, max(begin, end)))
    return found
