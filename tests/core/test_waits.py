"""Waits for signals and for times: nothing is sent, and nothing of them is lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from celery_saga.core import events as ev
from celery_saga.core.decide import decide
from celery_saga.core.decide.claims import claimed
from celery_saga.core.execution import (
    Claim,
    Direction,
    Failure,
    SagaExecution,
    SagaStatus,
    StepStatus,
)
from celery_saga.core.plan import (
    Call,
    ForEach,
    NestedSaga,
    Node,
    Parallel,
    Plan,
    PlanStep,
    Sleep,
    Wait,
)

DAY, START = 86_400.0, 1_000.0


def step(name: str, **about: Any) -> PlanStep:
    compensation = None if about.get("pivot") else Call(f"compensate.{name}")
    return PlanStep(name, Call(f"do.{name}", returns=name), compensation, **about)


APPROVED = Wait("approval", "approved", key="answer")
LIMITED = Wait("approval", "approved", timeout=DAY, key="answer")
REMINDED = Wait("approval", "approved", timeout=DAY, on_timeout=step("remind"), key="answer")


@dataclass
class Run:
    """A saga to which events happen, one second after the other."""

    execution: SagaExecution
    now: float = START
    sent: list[str] = field(default_factory=list)
    refusal: str = ""

    @classmethod
    def of(cls, *nodes: Node, context: Any = None, deadline: float | None = None) -> Run:
        plan = Plan("waits", nodes)
        until = None if deadline is None else START + deadline
        made = SagaExecution.create("s", plan, context or {}, at=START, deadline=until)
        run = cls(made)
        run.event(ev.Started, None)
        return run

    def event(self, kind: Any, *args: Any, **fields: Any) -> Run:
        self.now += 1
        decision = decide(self.execution, kind(self.now, *args, **fields))
        self.execution = decision.execution
        self.refusal = type(decision.refusal).__name__ if decision.refusal else ""
        refs = [each.ref for each in decision.commands if isinstance(each, ev.Dispatch)]
        for ref in refs:
            word = "compensate " if ref.direction is Direction.COMPENSATION else ""
            self.sent.append(word + self.execution.plan.name_of(ref.path))
        return self

    def done(self, value: Any = None, fails: bool = False) -> Run:
        """The task that is active for the longest time is claimed and ends."""
        ref = self.execution.first_active
        assert ref is not None
        claim = Claim(str(ref), "w", at=self.now)
        self.execution = claimed(self.execution, ref, claim) or self.execution
        if fails:
            return self.event(ev.StepFailed, ref, Failure("Boom", "it broke"), str(ref))
        name = self.execution.plan.at(ref.path).name
        update = {name: value} if ref.direction is Direction.FORWARD else {}
        return self.event(ev.StepSucceeded, ref, str(ref), update)

    def signal(self, name: str = "approved", payload: str = "true", token: str = "t") -> Run:
        return self.event(ev.SignalReceived, name, payload, token, by="ann")

    def later(self, seconds: float) -> Run:
        """The sweep checks the saga after that time."""
        self.now += seconds
        return self.event(ev.Overdue, ev.MessageState.WAITING)

    @property
    def status(self) -> SagaStatus:
        return self.execution.status

    @property
    def context(self) -> dict[str, Any]:
        return dict(self.execution.context)

    def statuses(self) -> dict[str, str]:
        return {each.name: each.status.value for each in self.execution.steps}


def test_a_saga_that_waits_sends_nothing_and_holds_no_claim() -> None:
    run = Run.of(step("a"), APPROVED, step("b")).done()
    assert run.sent == ["a"]
    assert run.execution.active == ()
    assert run.statuses() == {"a": "SUCCEEDED", "approval": "WAITING", "b": "PENDING"}
    assert run.status is SagaStatus.RUNNING


def test_a_signal_ends_the_wait_and_its_payload_comes_into_the_context() -> None:
    run = Run.of(step("a"), APPROVED, step("b")).done().signal(payload='{"by": "ann"}')
    assert run.sent == ["a", "b"]
    assert run.context["answer"] == {"by": "ann"}
    assert run.done().status is SagaStatus.COMPLETED


def test_a_signal_that_comes_before_its_wait_is_kept() -> None:
    run = Run.of(step("a"), APPROVED, step("b")).signal(payload="7")
    assert run.sent == ["a"]
    assert run.done().sent == ["a", "b"]
    assert run.context["answer"] == 7


def test_a_payload_without_a_key_is_dropped() -> None:
    run = Run.of(Wait("approval", "approved")).signal(payload="7")
    assert run.status is SagaStatus.COMPLETED
    assert run.context == {}


def test_a_second_signal_replaces_one_that_is_not_used_yet() -> None:
    run = Run.of(step("a"), APPROVED).signal(payload="1", token="t")
    assert run.signal(payload="2", token="u").done().context["answer"] == 2


def test_a_call_that_is_repeated_does_not_replace_a_later_one() -> None:
    run = Run.of(step("a"), APPROVED).signal(payload="1", token="t").signal(payload="2", token="u")
    before = run.execution
    assert run.signal(payload="1", token="t").execution is before
    assert run.done().context["answer"] == 2


@pytest.mark.parametrize("token", ["t", "u"])
def test_a_signal_that_was_used_changes_nothing_when_it_comes_again(token: str) -> None:
    run = Run.of(APPROVED, step("b")).signal(payload="1", token="t")
    before = run.execution
    run.signal(payload="2", token=token)
    assert run.execution is before
    assert run.refusal == ""


NESTED = NestedSaga("order", (Wait("order.paid", "paid"),))
LINES = ForEach("lines", ("items",), "item", Wait("picked", "picked"), parallel=True)
GRID = ForEach("rows", ("rows",), "row", LINES)

#: The waits of a saga, and a name that is sent -> whether there is a wait for it.
NAMES: dict[str, tuple[tuple[Node, ...], str, bool]] = {
    "its name": ((APPROVED,), "approved", True),
    "misspelt": ((APPROVED,), "aproved", False),
    "in capitals": ((APPROVED,), "Approved", False),
    "the name of the step": ((APPROVED,), "approval", False),
    "with an item's number": ((APPROVED,), "approved[0]", False),
    "in a saga without waits": ((), "approved", False),
    "behind a branch": ((step("b"), Parallel("p", (APPROVED, NESTED))), "paid", True),
    "behind a timeout": ((REMINDED,), "approved", True),
    "of an item": ((LINES,), "picked[7]", True),
    "of a loop without a number": ((LINES,), "picked", False),
    "of a loop with something else": ((LINES,), "picked[a]", False),
    "of a loop in a loop": ((GRID,), "picked[1][2]", True),
    "of a loop in a loop with one number": ((GRID,), "picked[1]", False),
}


@pytest.mark.parametrize("what", NAMES)
def test_a_signal_that_no_step_waits_for_is_refused(what: str) -> None:
    waits, name, known = NAMES[what]
    run = Run.of(step("a"), *waits, step("z")).signal(name, "1")
    assert run.refusal == ("" if known else "UnknownSignal")
    assert [each.name for each in run.execution.signals] == ([name] if known else [])


def test_the_text_names_the_signals_that_there_are() -> None:
    run = Run.of(step("a"), APPROVED, GRID)
    refusal = decide(run.execution, ev.SignalReceived(run.now, "aproved", "1", "t")).refusal
    assert str(refusal) == (
        "saga 's' does not wait for a signal 'aproved': expected 'approved' or "
        "'picked[number of the item][number of the item]'"
    )


def test_a_saga_that_is_over_refuses_a_signal() -> None:
    run = Run.of(step("a")).done().signal("late")
    assert run.refusal == "SagaNotActionable"
    assert run.execution.signals == ()


def test_a_saga_that_is_rolled_back_refuses_a_signal() -> None:
    run = Run.of(step("a"), APPROVED).done().event(ev.CancelRequested)
    assert run.signal().refusal == "SagaNotActionable"


def test_the_history_says_who_sent_a_signal_and_when() -> None:
    run = Run.of(APPROVED, step("b")).signal()
    note = run.execution.history[-1]
    assert (note.at, note.what, note.by, note.detail) == (run.now, "signal", "ann", "approved")


def test_each_item_of_a_loop_has_its_own_signal() -> None:
    body = NestedSaga("body", (APPROVED, step("ship")))
    loop = ForEach("each", ("items",), "item", body, parallel=True)
    run = Run.of(loop, context={"items": ["x", "y"]})
    assert run.signal("approved[1]").sent == ["ship[1]"]
    assert run.signal("approved[0]").sent == ["ship[1]", "ship[0]"]


def test_a_wait_with_a_timeout_fails_when_that_has_passed() -> None:
    run = Run.of(step("a"), LIMITED).done().later(DAY)
    assert run.sent == ["a", "compensate a"]
    error = run.execution.error
    assert error is not None
    assert (error.type, error.step) == ("celery_saga.errors.SignalTimeout", "approval")
    assert "'approved' was not sent within 86400 s" in error.message
    assert run.done().status is SagaStatus.COMPENSATED


def test_a_signal_before_the_timeout_counts() -> None:
    run = Run.of(LIMITED, step("b")).signal().later(DAY)
    assert run.sent == ["b"]


def test_a_timeout_leads_to_its_branch_and_then_behind_the_wait() -> None:
    run = Run.of(REMINDED, step("b")).later(DAY)
    assert run.sent == ["remind"]
    assert run.done().sent == ["remind", "b"]
    assert run.statuses() == {"approval": "SUCCEEDED", "remind": "SUCCEEDED", "b": "RUNNING"}
    assert run.done().status is SagaStatus.COMPLETED


def test_a_signal_that_comes_while_the_timeouts_branch_runs_is_not_used_by_it() -> None:
    run = Run.of(REMINDED, step("b")).later(DAY).signal()
    assert run.sent == ["remind"]
    assert "answer" not in run.context


def test_the_timeouts_branch_may_wait_for_the_same_signal_again() -> None:
    again = NestedSaga("again", (step("remind"), Wait("second", "approved", key="answer")))
    first = Wait("approval", "approved", timeout=DAY, on_timeout=again)
    run = Run.of(first, step("b")).later(DAY).done().signal(payload="7")
    assert run.sent == ["remind", "b"]
    assert run.context["answer"] == 7


def test_a_branch_of_a_timeout_is_compensated_with_the_rest() -> None:
    run = Run.of(step("a"), REMINDED, step("b")).done().later(DAY).done().done(fails=True)
    assert run.sent == ["a", "remind", "b", "compensate remind"]
    assert run.done().done().status is SagaStatus.COMPENSATED
    assert run.sent[-1] == "compensate a"


def test_a_sleep_ends_at_its_time() -> None:
    run = Run.of(step("a"), Sleep("nap", 60.0), step("b")).done()
    assert run.later(30).sent == ["a"]
    assert run.later(30).sent == ["a", "b"]


def test_the_sleep_of_a_saga_that_is_started_later_begins_with_its_start() -> None:
    run = Run(SagaExecution.create("s", Plan("waits", (Sleep("nap", 60.0),)), {}, at=START))
    run.event(ev.Started, START + 100)
    assert run.later(100).status is SagaStatus.RUNNING
    assert run.later(50).status is SagaStatus.RUNNING
    assert run.later(20).status is SagaStatus.COMPLETED


@pytest.mark.parametrize("node", [LIMITED, Sleep("nap", DAY)], ids=["wait", "sleep"])
def test_a_saga_is_not_checked_before_the_time_that_it_waits_for(node: Node) -> None:
    run = Run.of(node, step("b"))
    assert run.later(5).execution.due_at == START + 1 + DAY


def test_a_saga_that_waits_without_a_timeout_is_checked_once_an_hour() -> None:
    run = Run.of(APPROVED, step("b")).later(5)
    assert run.execution.due_at == run.now + 3600
    assert run.later(3600).execution.due_at == run.now + 3600
    assert run.sent == []


def test_a_deadline_ends_a_wait() -> None:
    run = Run.of(step("a"), APPROVED, deadline=100).done().later(5)
    assert run.execution.due_at == START + 100
    assert run.later(100).sent == ["a", "compensate a"]


def test_a_cancel_withdraws_a_wait_at_once() -> None:
    run = Run.of(step("a"), LIMITED, step("b")).done().event(ev.CancelRequested)
    assert run.sent == ["a", "compensate a"]
    assert run.statuses()["approval"] == StepStatus.PENDING
    assert run.done().status is SagaStatus.COMPENSATED


def test_a_wait_that_was_withdrawn_has_no_timeout_any_more() -> None:
    run = Run.of(step("a"), REMINDED).done().event(ev.CancelRequested).later(DAY)
    assert run.sent == ["a", "compensate a"]


def test_a_branch_that_fails_withdraws_the_wait_of_another_one() -> None:
    run = Run.of(Parallel("both", (step("a"), REMINDED))).done(fails=True)
    assert run.status is SagaStatus.COMPENSATED
    assert run.statuses()["approval"] == StepStatus.PENDING


def test_a_pause_loses_no_signal() -> None:
    run = Run.of(APPROVED, step("b")).event(ev.PauseRequested).signal(payload="7")
    assert run.sent == []
    assert run.event(ev.ResumeRequested).sent == ["b"]
    assert run.context["answer"] == 7


def test_a_pause_loses_no_timeout() -> None:
    run = Run.of(REMINDED, step("b")).event(ev.PauseRequested).later(DAY)
    assert run.sent == []
    assert run.event(ev.ResumeRequested).sent == ["remind"]


def test_a_resumed_wait_waits_on() -> None:
    run = Run.of(LIMITED, step("b")).event(ev.PauseRequested).event(ev.ResumeRequested)
    assert run.sent == []
    assert run.execution.due_at == START + 1 + DAY
    assert run.signal().sent == ["b"]


def test_a_wait_behind_the_pivot_that_times_out_makes_the_saga_stuck_and_can_be_retried() -> None:
    run = Run.of(step("a", pivot=True), LIMITED, step("b", pivot=False)).done().later(DAY)
    assert run.status is SagaStatus.STUCK
    run.event(ev.RetryRequested)
    assert run.statuses()["approval"] == StepStatus.WAITING
    assert run.signal().sent == ["a", "b"]


def test_a_stuck_saga_keeps_a_signal_for_its_retry() -> None:
    run = Run.of(step("a", pivot=True), LIMITED, step("b")).done().later(DAY).signal()
    assert run.status is SagaStatus.STUCK
    assert run.event(ev.RetryRequested).sent == ["a", "b"]


def test_a_skip_continues_behind_a_wait_that_has_timed_out() -> None:
    run = Run.of(step("a", pivot=True), LIMITED, step("b")).done().later(DAY)
    assert run.event(ev.SkipRequested).sent == ["a", "b"]


def test_one_signal_continues_one_of_two_branches() -> None:
    other = Wait("payment", "paid")
    run = Run.of(Parallel("both", (APPROVED, other)), step("b")).signal()
    assert run.sent == []
    assert run.signal("paid").sent == ["b"]


def test_waits_and_signals_survive_a_round_trip_through_plain_data() -> None:
    run = Run.of(step("a"), REMINDED, Sleep("nap", 5)).signal("other", "1", "t").signal()
    assert SagaExecution.from_raw(run.execution.raw).signals == run.execution.signals
    assert Plan.from_text(run.execution.plan.text) == run.execution.plan


def test_no_repr_shows_a_payload() -> None:
    run = Run.of(step("a"), APPROVED).signal(payload='"secret"')
    assert "secret" not in repr(run.execution)
    assert "secret" not in repr(ev.SignalReceived(0.0, "approved", '"secret"', "t"))
