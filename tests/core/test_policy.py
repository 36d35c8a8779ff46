"""What follows a failure: the table of :mod:`celery_saga.core.decide.policy`, and all of its cases.

``policy.txt`` was recorded before there was a policy: what the state machine did in each case.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path

import pytest

from celery_saga.core import events as ev
from celery_saga.core.decide import decide, policy
from celery_saga.core.decide.overdue import most_resends
from celery_saga.core.decide.policy import (
    AfterFailure,
    FailedAttempt,
    FailureKind,
    Place,
    after_failure,
    place_of,
)
from celery_saga.core.execution import (
    Claim,
    Direction,
    Failure,
    SagaExecution,
    SagaStatus,
    StepRef,
    StepStatus,
)
from celery_saga.core.plan import Call, Plan, PlanStep

RECORDED = Path(__file__).with_name("policy.txt")

FORWARD, COMPENSATION = Direction.FORWARD, Direction.COMPENSATION
NO_YES = (False, True)
LETTERS = {
    "n": AfterFailure.RETRY_NOW,
    "l": AfterFailure.RETRY_LATER,
    "c": AfterFailure.COMPENSATE,
    "s": AfterFailure.STUCK,
}

#: The step that fails is the second of three.
HERE, AT = 1, 100_000.0


ALL = [
    FailedAttempt(*each) for each in itertools.product(FailureKind, Direction, Place, *[NO_YES] * 5)
]


def ways_to(case: FailedAttempt) -> Iterator[tuple[SagaExecution, ev.Event]]:
    """Sagas in which the step is about to fail in that way, each with the event that says so."""
    for earlier, began, read_only in itertools.product(NO_YES, NO_YES, NO_YES):
        for event in _events(case, began):
            effect = earlier or (_takes_effect(case, event, began) and not read_only)
            if effect is case.effect:
                yield _saga(case, earlier=earlier, began=began, read_only=read_only), event


def _ref(case: FailedAttempt) -> StepRef:
    return StepRef((HERE,), case.direction, 3)


def _events(case: FailedAttempt, began: bool) -> Iterator[ev.Event]:
    ref, boom, token = _ref(case), Failure("Boom", "it broke", "b"), "t" if began else ""
    if case.kind in (FailureKind.FAILED, FailureKind.FINAL):
        final = case.kind is FailureKind.FINAL
        for effect in NO_YES:
            yield ev.StepFailed(AT, ref, boom, token, effect=effect, final=final)
        if not final:
            yield ev.StepRevoked(AT, ref, boom, "worker", terminated=True)
    elif case.kind is FailureKind.LOST:
        yield ev.ClaimVoided(AT, ref, token, "worker", started=not began)
    elif began:
        return  # it has a claim, and its message is not looked for
    elif case.kind is FailureKind.UNCLAIMED:
        yield ev.Overdue(AT, ev.MessageState.LOST_WITH_WORKER)
        yield ev.Overdue(AT, ev.MessageState.MISSING)
    else:
        yield ev.Overdue(AT, ev.MessageState.NOWHERE)
        yield ev.TaskUnknown(AT, ref)


def _takes_effect(case: FailedAttempt, event: ev.Event, began: bool) -> bool:
    if case.direction is COMPENSATION or case.kind is FailureKind.UNSENDABLE:
        return False
    if isinstance(event, ev.StepFailed):
        return event.effect
    return case.kind is FailureKind.UNCLAIMED or began


def _saga(case: FailedAttempt, *, earlier: bool, began: bool, read_only: bool) -> SagaExecution:
    forward = case.direction is FORWARD
    compensation = Call("compensation", max_attempts=2 if case.attempts_left else 1)
    action = Call("do", rerun=case.rerun, max_attempts=None if case.attempts_left else 1)
    compensated = compensation if case.place is Place.BEFORE or not forward else None
    pivot = {Place.BEFORE: 2, Place.PIVOT: 1, Place.AFTER: 0}[case.place]
    steps = (
        PlanStep("a", action, compensation, pivot == 0),
        PlanStep("b", action, compensated, pivot == 1, read_only=read_only),
        PlanStep("c", action, None, pivot == 2),
    )
    plan = Plan("failing", steps, max_redeliveries=3 if case.reruns_left else 0)
    saga = SagaExecution.create("s", plan, {}, at=0.0)
    saga = saga.with_step(0, status=StepStatus.SUCCEEDED, effect=True, epoch=1)
    saga = saga.sent(
        _ref(case),
        status=StepStatus.RUNNING if forward else StepStatus.COMPENSATING,
        forward_epoch=0 if forward else 2,
        effect=earlier,
        expected_at=0.0,
        task_unknown_since=0.0,
        unclaimed=most_resends(plan),
    )
    if began:
        saga = saga.with_step(HERE, claim=Claim("t", "worker", at=AT - 60))
    return replace(
        saga,
        status=SagaStatus.RUNNING if forward else SagaStatus.COMPENSATING,
        direction=case.direction,
        rollback_reason=Failure("Cancelled", "", "b") if case.rolling_back else None,
    )


def answer_of(case: FailedAttempt, decision: ev.Decision) -> AfterFailure:
    """What the state machine did."""
    after, sent = decision.execution, [c for c in decision.commands if isinstance(c, ev.Dispatch)]
    here = [each.ref for each in sent if each.ref.path == (HERE,)]
    if any(ref.direction is case.direction for ref in here):
        return AfterFailure.RETRY_NOW
    if sent and after.direction is COMPENSATION:
        return AfterFailure.COMPENSATE
    if after.status is SagaStatus.STUCK and after.direction is FORWARD:
        return AfterFailure.STUCK
    assert not decision.commands, decision
    assert not after.active, decision
    assert (after.steps[HERE].not_before or 0) > AT, decision
    return AfterFailure.RETRY_LATER


def recorded() -> dict[FailedAttempt, AfterFailure]:
    """The answers of ``policy.txt``."""
    found = {}
    for line in RECORDED.read_text().partition("\n\n")[2].splitlines():
        kind, direction, place, *letters = line.split()
        flags = itertools.product(*[NO_YES] * 5)
        for each, letter in zip(flags, "".join(letters), strict=True):
            where = FORWARD if direction == "forward" else COMPENSATION
            case = FailedAttempt(FailureKind[kind], where, Place[place.upper()], *each)
            found[case] = LETTERS[letter]
    return found


@dataclass(frozen=True)
class Row:
    """A row of the table in the policy's docstring."""

    cells: Mapping[str, str]
    answer: AfterFailure

    def fits(self, case: FailedAttempt) -> bool:
        """Whether it speaks of the case."""
        return all(cell in ("-", _word(getattr(case, name))) for name, cell in self.cells.items())


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    assert isinstance(value, Enum)
    return value.name.lower() if isinstance(value, Direction) else value.name


def table() -> list[Row]:
    """The rows of the policy's docstring."""
    assert policy.__doc__
    _, head, body, _ = re.split(r"^=[= ]+=\n", policy.__doc__, flags=re.MULTILINE)
    names = head.removesuffix("what follows\n").split()
    assert names == [spec.name for spec in fields(FailedAttempt)]
    rows = [line.split() for line in body.splitlines()]
    return [
        Row(dict(zip(names, cells, strict=True)), AfterFailure[answer]) for *cells, answer in rows
    ]


def id_of(case: FailedAttempt) -> str:
    """A case in one word, with the flags that are set."""
    flags = [spec.name for spec in fields(case) if getattr(case, spec.name) is True]
    return "-".join([case.kind.name, case.direction.name, case.place.name, *flags])


def test_the_table_is_what_the_state_machine_did_before_there_was_one() -> None:
    was, rows = recorded(), table()
    assert list(was) == ALL
    used = set()
    for case in ALL:
        row = next(row for row in rows if row.fits(case))
        used.add(rows.index(row))
        assert (id_of(case), row.answer) == (id_of(case), was[case])
    assert used == set(range(len(rows))), "a row that never holds"


def test_the_function_is_its_table() -> None:
    rows = table()
    for case in ALL:
        row = next(row for row in rows if row.fits(case))
        assert (id_of(case), after_failure(case)) == (id_of(case), row.answer)


@pytest.mark.parametrize("kind", FailureKind, ids=lambda kind: kind.name)
def test_the_state_machine_carries_it_out(kind: FailureKind) -> None:
    """However the effect came about, and whichever event reports the failure."""
    was = recorded()
    for case in (case for case in ALL if case.kind is kind):
        done = {answer_of(case, decide(saga, event)) for saga, event in ways_to(case)}
        assert (id_of(case), done) == (id_of(case), {was[case]})


@pytest.mark.parametrize(
    ("kind", "attempts", "lost", "left"),
    [
        (FailureKind.LOST, 9, 2, True),
        (FailureKind.LOST, 0, 3, False),
        (FailureKind.FAILED, 1, 1, True),
        (FailureKind.FAILED, 1, 2, False),
        (FailureKind.FAILED, 3, 0, False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_what_uses_the_redeliveries_up(
    kind: FailureKind, attempts: int, lost: int, left: bool
) -> None:
    plan = Plan("limits", (PlanStep("a", Call("do")),), max_redeliveries=2)
    saga = SagaExecution.create("s", plan, {}, at=0.0).with_step(0, attempts=attempts, lost=lost)
    ref = StepRef((0,), FORWARD, 1)
    assert FailedAttempt.of(saga, ref, plan.steps[0].action, kind).reruns_left is left


@pytest.mark.parametrize(
    ("most", "attempts", "left"), [(None, 99, True), (3, 2, True), (3, 3, False), (1, 1, False)]
)
def test_what_uses_the_attempts_up(most: int | None, attempts: int, left: bool) -> None:
    call = Call("do", max_attempts=most)
    plan = Plan("limits", (PlanStep("a", call),))
    saga = SagaExecution.create("s", plan, {}, at=0.0).with_step(0, attempts=attempts)
    ref = StepRef((0,), FORWARD, 1)
    assert FailedAttempt.of(saga, ref, call, FailureKind.FAILED).attempts_left is left


def test_without_a_pivot_every_step_is_before_it() -> None:
    steps = tuple(PlanStep(name, Call("do")) for name in "abc")
    places = [place_of(Plan("x", steps), (index,)) for index in range(3)]
    with_pivot = (steps[0], replace(steps[1], pivot=True), steps[2])
    assert places == [Place.BEFORE] * 3
    assert [place_of(Plan("x", with_pivot), (index,)) for index in range(3)] == list(Place)
