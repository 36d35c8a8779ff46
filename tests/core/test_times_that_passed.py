"""Times that have passed before the sweep has found it: of a wait, and of the whole saga."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_saga.core import events as ev
from celery_saga.core.plan import NestedSaga, Node, Wait
from tests.core.test_waits import APPROVED, DAY, LIMITED, REMINDED, START, Run, step

AGAIN = Wait(
    "approval",
    "approved",
    timeout=DAY,
    on_timeout=NestedSaga("late", (step("remind"), Wait("again", "approved", key="second"))),
    key="answer",
)
AT_ONCE = Wait(
    "approval", "approved", timeout=DAY, on_timeout=Wait("again", "approved", key="second")
)


def signalled(
    *nodes: Node, after: float, deadline: float | None = None, paused: bool = False
) -> Run:
    """A run that waits behind its first step, and gets the signal so many seconds later."""
    run = Run.of(step("a"), *nodes, deadline=deadline).done()
    if paused:
        run.event(ev.PauseRequested)
    begun = run.execution.steps[(1,)].started_at or START
    run.now = begun + after - 1
    return run.signal(payload="7")


#: When a signal comes to a wait of a day -> what the saga has sent then, and whether it is refused.
LATE: dict[str, tuple[Callable[[], Run], list[str], str]] = {
    "a second before": (lambda: signalled(LIMITED, step("b"), after=DAY - 1), ["a", "b"], ""),
    "at its time": (lambda: signalled(LIMITED, after=DAY), ["a"], "SagaNotActionable"),
    "an hour later": (lambda: signalled(LIMITED, after=DAY + 3600), ["a"], "SagaNotActionable"),
    "later, and the timeout has a branch": (
        lambda: signalled(REMINDED, step("b"), after=DAY),
        ["a", "remind"],
        "",
    ),
    "later, and the branch waits for it again": (
        lambda: signalled(AT_ONCE, step("b"), after=DAY),
        ["a", "b"],
        "",
    ),
    "without a timeout, whenever": (
        lambda: signalled(APPROVED, step("b"), after=99 * DAY),
        ["a", "b"],
        "",
    ),
    "in a pause, a second before": (
        lambda: signalled(LIMITED, step("b"), after=DAY - 1, paused=True),
        ["a"],
        "",
    ),
    "in a pause, later": (
        lambda: signalled(LIMITED, step("b"), after=DAY + 1, paused=True),
        ["a"],
        "",
    ),
    "before the deadline": (
        lambda: signalled(APPROVED, step("b"), after=50, deadline=100),
        ["a", "b"],
        "",
    ),
    "after the deadline": (
        lambda: signalled(APPROVED, step("b"), after=100, deadline=100),
        ["a"],
        "SagaNotActionable",
    ),
    "in a pause, after the deadline": (
        lambda: signalled(APPROVED, step("b"), after=100, deadline=100, paused=True),
        ["a"],
        "SagaNotActionable",
    ),
}


@pytest.mark.parametrize("when", LATE)
def test_a_signal_that_comes(when: str) -> None:
    made, sent, refusal = LATE[when]
    run = made()
    assert (run.sent, run.refusal) == (sent, refusal)


def test_a_refused_signal_changes_nothing_and_the_sweep_ends_the_wait() -> None:
    run = signalled(LIMITED, after=DAY)
    assert run.execution.signals == ()
    assert run.statuses()["approval"] == "WAITING"

    run.later(0)

    assert run.sent == ["a", "compensate a"]
    assert run.execution.error is not None
    assert run.execution.error.type == "celery_saga.errors.SignalTimeout"


def test_a_late_signal_is_kept_for_a_wait_in_the_timeouts_branch() -> None:
    run = signalled(AGAIN, step("b"), after=DAY)
    assert run.sent == ["a", "remind"]

    run.done()

    assert run.sent == ["a", "remind", "b"]
    assert run.context["second"] == 7
    assert "answer" not in run.context


def test_a_signal_in_a_pause_counts_when_the_saga_is_resumed() -> None:
    run = signalled(LIMITED, step("b"), after=DAY + 1, paused=True)
    run.event(ev.ResumeRequested)
    assert run.sent == ["a", "b"]


def test_a_late_signal_behind_the_pivot_is_there_for_the_operators_retry() -> None:
    run = Run.of(step("p", pivot=True), LIMITED, step("b")).done()
    run.now += DAY
    run.signal(payload="7")
    assert (run.status, run.refusal) == ("STUCK", "")

    run.event(ev.RetryRequested)

    assert run.sent == ["p", "b"]


class TestDeadlines:
    """A deadline holds until the saga has ended, or is past its pivot: also behind STUCK."""

    def stuck(self, deadline: float, *more: Node) -> Run:
        run = Run.of(step("a"), step("b", on_exhausted="pause"), *more, deadline=deadline).done()
        run.done(fails=True)
        assert run.status == "STUCK"
        return run

    @pytest.mark.parametrize(
        ("verb", "compensated"),
        [(ev.RetryRequested, "compensate a"), (ev.SkipRequested, "compensate b")],
    )
    def test_that_passes_while_the_saga_is_stuck(
        self, verb: type[ev.Event], compensated: str
    ) -> None:
        """A step that is skipped was done by hand, and is compensated first."""
        run = self.stuck(100, step("c")).later(500)
        assert run.status == "STUCK"  # an operator decides when it continues

        run.event(verb)

        assert run.sent == ["a", "b", compensated]
        assert run.execution.rollback_reason is not None
        assert run.execution.rollback_reason.type == "DeadlineExceeded"

    @pytest.mark.parametrize("verb", [ev.RetryRequested, ev.SkipRequested])
    def test_that_passes_after_the_saga_has_continued(self, verb: type[ev.Event]) -> None:
        run = self.stuck(100, step("c"), APPROVED).event(verb).done()
        if verb is ev.RetryRequested:
            run.done()
        assert run.statuses()["approval"] == "WAITING"
        assert run.execution.due_at is not None
        assert run.execution.due_at <= START + 100

        run.later(200)

        assert run.sent[-1].startswith("compensate")
        assert run.execution.error is not None

    def test_of_a_saga_that_is_skipped_to_its_end(self) -> None:
        run = self.stuck(100).later(500).event(ev.SkipRequested)
        assert run.status == "COMPLETED"
        assert run.execution.deadline is None

    def test_that_passes_in_a_pause(self) -> None:
        run = Run.of(step("a"), APPROVED, deadline=100).done().event(ev.PauseRequested)
        run.later(200)
        assert (run.status, run.sent) == ("PAUSED", ["a"])

        run.event(ev.ResumeRequested)

        assert run.sent == ["a", "compensate a"]
        assert run.done().status == "COMPENSATED"

    def test_behind_the_pivot_it_is_reported_once(self) -> None:
        run = Run.of(step("p", pivot=True), LIMITED, deadline=100).done()
        run.later(DAY)
        run.later(1)
        assert run.status == "STUCK"
        run.event(ev.RetryRequested).later(1).later(1)
        passed = [note.what for note in run.execution.history if "deadline" in note.what]
        assert passed == ["deadline passed after the pivot"]

    def test_a_rollback_that_gets_stuck_has_none(self) -> None:
        run = Run.of(step("a"), step("b"), deadline=100).done().done(fails=True)
        run.done(fails=True)
        assert run.status == "STUCK"
        assert run.execution.deadline is None
