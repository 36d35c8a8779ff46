"""Remote steps: requests, replies, and what is known when no reply comes."""

from __future__ import annotations

import json
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
    StepRef,
)
from celery_saga.core.plan import Call, Parallel, Plan, PlanStep, RemoteStep
from celery_saga.core.state import Request

HOUR, START = 3_600.0, 1_000.0

BEFORE = PlanStep("a", Call("do.a"), Call("compensate.a"))
AFTER = PlanStep("b", Call("do.b"), Call("compensate.b"))


def remote(
    name: str = "stock", *, compensated: bool = True, handled: str = "", **about: Any
) -> RemoteStep:
    """A remote step; ``handled``: the statuses that have a handler, S and E."""
    action = Call(f"ask.{name}", "context", max_attempts=about.pop("max_attempts", 1))
    return RemoteStep(
        name,
        action,
        Call(f"compensate.{name}", "context", max_attempts=2) if compensated else None,
        on_success=Call("succeeded", "context") if "S" in handled else None,
        on_error=Call("refused", "context") if "E" in handled else None,
        **about,
    )


@dataclass
class Run:
    """A saga to which events happen, one second after the other."""

    execution: SagaExecution
    now: float = START
    sent: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, *nodes: Any) -> Run:
        made = SagaExecution.create("s", Plan("remote", nodes), {}, at=START)
        return cls(made).event(ev.Started, None)

    def event(self, kind: Any, *args: Any, **fields: Any) -> Run:
        self.now += 1
        decision = decide(self.execution, kind(self.now, *args, **fields))
        self.execution = decision.execution
        self.sent += [self.what(it.ref) for it in decision.commands if isinstance(it, ev.Dispatch)]
        return self

    def what(self, ref: StepRef) -> str:
        """What a dispatch is: of a remote step with its phase."""
        name, back = self.execution.plan.name_of(ref.path), "-" * (ref.direction.value == "c")
        record, node = self.execution.steps[ref.path], self.execution.plan.step(ref.path)
        if not node.is_remote:
            return back + name
        if record.open_request is not None:
            return f"{back}{name}: request"
        return f"{back}{name}: {'handler' if record.request else 'build'}"

    @property
    def ref(self) -> StepRef:
        """What is active for the longest time."""
        assert self.execution.first_active is not None
        return self.execution.first_active

    def claim(self) -> tuple[StepRef, str]:
        ref = self.ref
        token = f"claim of {ref}"
        self.execution = claimed(
            self.execution, ref, Claim(token, "w", at=self.now)
        ) or pytest.fail("not claimed")
        return ref, token

    def done(self) -> Run:
        """The task that is active ends; one that makes a request has made it."""
        ref, token = self.claim()
        record, node = self.execution.steps[ref.path], self.execution.plan.step(ref.path)
        if not node.is_remote or record.request is not None:
            return self.event(ev.StepSucceeded, ref, token)
        self.tokens.append(f"token {len(self.tokens)}")
        message = {"target": "stock.do", "task": "stock.do", "args": [], "kwargs": {}}
        request = Request(self.tokens[-1], {**message, "options": {}})
        return self.event(ev.StepSucceeded, ref, token, request=request)

    def fails(self, **about: Any) -> Run:
        ref, token = self.claim()
        return self.event(ev.StepFailed, ref, Failure("Error", "no"), token=token, **about)

    def lost(self) -> Run:
        ref, token = self.claim()
        return self.event(ev.ClaimVoided, ref, token)

    def reply(self, status: int = 200, token: str | None = None, path: Any = None) -> Run:
        """A reply to the newest request, or to the one with that token."""
        path = path or next(p for p, it in self.execution.steps.items() if it.name == "stock")
        reply = {"status": status, "content": json.dumps("said"), "related_services": []}
        ref = StepRef(path, Direction.FORWARD, 0)
        return self.event(ev.ReplyReceived, ref, token or self.tokens[-1], reply)

    def arrived(self) -> Run:
        """The broker has taken the request."""
        return self.event(ev.RequestSent, self.ref)

    def later(self, seconds: float) -> Run:
        self.now += seconds
        return self.event(ev.Overdue)

    def requested(self) -> Run:
        """Up to the request, which the broker has."""
        return self.done().done().arrived()

    @property
    def step(self) -> Any:
        return next(it for it in self.execution.steps if it.name == "stock")

    @property
    def status(self) -> str:
        return self.execution.status.value

    def back(self) -> list[str]:
        """What the rollback sends, as everything succeeds; up to the end."""
        begun = len(self.sent)
        while not self.execution.settled:
            if self.step.open_request is not None and self.execution.ref((1,)):
                self.reply()
            else:
                self.done()
        return self.sent[begun:]


COMPENSATIONS = ["-stock: request", "-a"]


class TestForward:
    def test_its_phases(self) -> None:
        run = Run.of(BEFORE, remote(handled="S"), AFTER)
        run.requested()
        assert (run.step.status, run.execution.activity((1,))) == ("WAITING", "requested")
        run.reply().done().done()

        phases = ["stock: build", "stock: request", "stock: handler"]
        assert (run.sent, run.status) == (["a", *phases, "b"], "COMPLETED")
        assert run.step.epoch == 3
        assert run.step.request is None

    def test_without_a_handler_the_reply_ends_it(self) -> None:
        run = Run.of(BEFORE, remote(), AFTER).requested().reply()
        assert run.sent[-1] == "b"

    def test_a_refusal_fails_it_and_leaves_nothing(self) -> None:
        run = Run.of(BEFORE, remote(handled="S"), AFTER).requested().reply(400)
        assert (run.step.status, run.step.effect) == ("FAILED", False)
        assert "status 400 (ERROR): said" in str(run.execution.error)
        assert run.sent[-1] == "-a"
        assert (run.back(), run.status) == ([], "COMPENSATED")

    def test_a_refusal_that_is_handled(self) -> None:
        run = Run.of(BEFORE, remote(handled="E"), AFTER).requested().reply(400)
        assert run.sent[-1] == "stock: handler"
        run.done()
        assert (run.step.status, run.step.effect, run.sent[-1]) == ("SUCCEEDED", False, "b")
        run.fails()
        assert run.sent[-1] == "-a"

    @pytest.mark.parametrize("status", [200, 400])
    def test_a_handler_that_fails_leads_to_the_compensation(self, status: int) -> None:
        run = Run.of(BEFORE, remote(handled="SE"), AFTER).requested().reply(status).fails()
        assert run.sent[-1] == "-stock: build"
        assert (run.back(), run.status) == (COMPENSATIONS, "COMPENSATED")

    @pytest.mark.parametrize(("status", "ends"), [(200, "STUCK"), (400, "COMPENSATED")])
    def test_the_same_without_a_compensation(self, status: int, ends: str) -> None:
        run = Run.of(BEFORE, remote(handled="SE", compensated=False), AFTER)
        run.requested().reply(status).fails()
        assert run.sent[-1] == "-a"
        assert (run.back(), run.status) == ([], ends)

    def test_a_lost_handler_is_run_again_without_a_new_request(self) -> None:
        run = Run.of(BEFORE, remote(handled="S"), AFTER).requested().reply().lost()
        assert run.sent[-2:] == ["stock: handler", "stock: handler"]
        assert run.done().sent[-1] == "b"

    def test_a_task_that_makes_the_request_may_fail_or_be_lost(self) -> None:
        run = Run.of(BEFORE, remote(compensated=False), AFTER).done().lost()
        assert (run.sent[-1], run.step.effect) == ("stock: build", False)
        run.fails(effect=True)
        assert (run.sent[-1], run.step.effect) == ("-a", False)

    def test_a_second_report_of_the_task_that_made_the_request(self) -> None:
        run = Run.of(BEFORE, remote(), AFTER).done()
        ref, token = run.claim()
        request = Request("t", {"target": "x", "task": "x", "args": [], "kwargs": {}})
        for _ in range(2):
            run.event(ev.StepSucceeded, ref, token, request=request)
        assert run.sent == ["a", "stock: build", "stock: request"]
        assert run.step.epoch == 2


class TestNoReply:
    @pytest.mark.parametrize("how", ["timeout", "failed"])
    @pytest.mark.parametrize(
        ("about", "status", "sent"),
        [
            ({}, "COMPENSATED", ["-stock: build", *COMPENSATIONS]),
            ({"compensated": False}, "STUCK", ["-a"]),
            ({"compensated": False, "read_only": True}, "COMPENSATED", ["-a"]),
        ],
    )
    def test_its_effect_is_unknown(self, how: str, about: Any, status: str, sent: Any) -> None:
        run = Run.of(BEFORE, remote(**about), AFTER).requested()
        begun = len(run.sent)
        run.reply(500) if how == "failed" else run.later(HOUR)
        run.back()
        assert (run.sent[begun:], run.status) == (sent, status)

    def test_the_timeout_is_that_of_the_step(self) -> None:
        run = Run.of(BEFORE, remote(timeout=50.0), AFTER).requested().later(40)
        assert run.step.open_request is not None
        assert run.execution.due_at == run.step.request.until
        assert "within its timeout" in str(run.later(10).execution.error)

    def test_a_request_that_was_not_sent_is_sent_again(self) -> None:
        run = Run.of(BEFORE, remote(), AFTER).done().done().later(5).later(5)
        assert run.sent[-3:] == ["stock: request"] * 3
        assert run.step.epoch == 2
        assert run.arrived().later(60).sent[-4:] == ["stock: build"] + ["stock: request"] * 3

    def test_one_that_can_never_be_sent_has_no_effect(self) -> None:
        run = Run.of(BEFORE, remote(compensated=False), AFTER).done().done()
        run.event(ev.StepFailed, run.ref, Failure("UnsendableStep", "no"), final=True)
        assert (run.step.status, run.step.effect, run.sent[-1]) == ("FAILED", False, "-a")

    def test_a_retriable_step_makes_a_new_request(self) -> None:
        run = Run.of(BEFORE, remote(max_attempts=2), AFTER).requested().reply(500).later(5)
        assert run.sent[-1] == "stock: build"
        run.done().arrived().reply()
        assert (run.sent[-1], len(run.tokens)) == ("b", 2)

    def test_its_second_request_is_refused_and_the_first_one_stays_unknown(self) -> None:
        run = Run.of(BEFORE, remote(max_attempts=2), AFTER).requested().reply(500).later(5)
        run.done().arrived().reply(400)
        assert run.sent[-1] == "-stock: build"

    def test_the_first_one_succeeds_late_and_the_second_one_is_refused(self) -> None:
        run = Run.of(BEFORE, remote(max_attempts=2), AFTER).requested().reply(500).later(5)
        run.done().arrived().reply(200, run.tokens[0]).reply(400)
        assert run.sent[-1] == "-stock: build"
        assert (run.back(), run.status) == (COMPENSATIONS, "COMPENSATED")


class TestRepliesThatAreNotAwaited:
    def test_a_second_one_changes_nothing(self) -> None:
        run = Run.of(BEFORE, remote(handled="S"), AFTER).requested().reply()
        for _ in range(2):
            before = run.execution
            for status in (200, 400, 500):
                assert run.reply(status).execution is before
            run.done()

    def test_one_without_the_token_changes_nothing(self) -> None:
        run = Run.of(BEFORE, remote(), AFTER).requested()
        before = run.execution
        for token in ("", "forged", "claim of f1~1", "token 1"):
            assert run.reply(200, token or " ").execution is before

    @pytest.mark.parametrize("path", [(0,), (2,), (7,), (1, 1)])
    def test_one_to_another_step_changes_nothing(self, path: Any) -> None:
        run = Run.of(BEFORE, remote(), AFTER).requested()
        before = run.execution
        assert run.reply(200, path=path).execution is before

    def test_one_that_comes_late_is_a_late_effect(self) -> None:
        run = Run.of(BEFORE, remote(), AFTER).requested().later(HOUR)
        run.back()
        assert run.status == "COMPENSATED"
        run.reply(200, run.tokens[0])
        assert (run.status, run.sent[-1]) == ("COMPENSATING", "-stock: build")
        assert (run.back(), run.status) == (["-stock: request"], "COMPENSATED")
        key = run.execution.idempotency_key((1,), Direction.COMPENSATION)
        assert key.endswith("/1")
        before = run.execution
        assert run.reply(200, run.tokens[0]).execution is before

    @pytest.mark.parametrize("status", [400, 500])
    def test_a_late_one_of_another_status_changes_nothing(self, status: int) -> None:
        run = Run.of(BEFORE, remote(), AFTER).requested().later(HOUR)
        run.back()
        before = run.execution
        assert run.reply(status, run.tokens[0]).execution is before

    def test_one_that_comes_while_its_compensation_is_requested(self) -> None:
        run = Run.of(BEFORE, remote(), AFTER).requested().later(HOUR).done().arrived()
        run.reply(200, run.tokens[0])
        assert run.step.late_effect
        run.reply()
        assert run.sent[-2:] == ["-stock: request", "-stock: build"]
        assert (run.back(), run.status) == (COMPENSATIONS, "COMPENSATED")

    def test_one_that_comes_late_to_a_step_without_a_compensation(self) -> None:
        run = Run.of(BEFORE, remote(compensated=False), AFTER).requested().later(HOUR)
        run.back()
        assert run.reply(200, run.tokens[0]).status == "STUCK"


class TestCancel:
    def test_an_open_request_is_closed_and_compensated(self) -> None:
        run = Run.of(BEFORE, remote(), AFTER).requested().event(ev.CancelRequested)
        assert (run.step.status, run.sent[-1]) == ("COMPENSATING", "-stock: build")
        assert (run.back(), run.status) == (COMPENSATIONS, "COMPENSATED")

    def test_without_a_compensation_it_is_stuck(self) -> None:
        run = Run.of(BEFORE, remote(compensated=False), AFTER).requested()
        run.event(ev.CancelRequested)
        run.back()
        assert (run.status, run.step.status) == ("STUCK", "UNKNOWN")

    @pytest.mark.parametrize(
        ("compensated", "sent"), [(True, ["-stock: build", *COMPENSATIONS]), (False, ["-a"])]
    )
    def test_a_handler_that_no_worker_has_is_left_out(self, compensated: bool, sent: Any) -> None:
        run = Run.of(BEFORE, remote(handled="S", compensated=compensated), AFTER)
        run.requested().reply()
        begun = len(run.sent)
        run.event(ev.CancelRequested).back()
        assert (run.sent[begun:], run.status) == (sent, "COMPENSATED")

    def test_while_the_request_is_made_it_is_not_sent(self) -> None:
        run = Run.of(BEFORE, remote(), AFTER).done()
        ref, token = run.claim()
        run.event(ev.CancelRequested)
        request = Request("t", {"target": "x", "task": "x", "args": [], "kwargs": {}})
        run.event(ev.StepSucceeded, ref, token, request=request)
        assert (run.sent, run.step.effect) == (["a", "stock: build", "-a"], False)

    def test_a_failing_sibling_closes_it(self) -> None:
        run = Run.of(Parallel("both", (remote(), AFTER)))
        run.done().arrived()
        ref = next(each for each in run.execution.active if each.path == (0, 1))
        run.execution = claimed(run.execution, ref, Claim("c", "w")) or run.execution
        run.event(ev.StepFailed, ref, Failure("Error", "no"), token="c")
        assert (run.step.status, run.sent[-1]) == ("COMPENSATING", "-stock: build")


class TestPause:
    def test_before_the_request_is_sent(self) -> None:
        run = Run.of(BEFORE, remote(), AFTER).done().event(ev.PauseRequested)
        run.done()
        assert run.sent == ["a", "stock: build"]
        assert not run.step.effect
        run.event(ev.ResumeRequested)
        assert run.sent[-1] == "stock: request"
        assert run.step.effect

    def test_a_reply_meanwhile_is_kept(self) -> None:
        run = Run.of(BEFORE, remote(handled="S"), AFTER).requested().event(ev.PauseRequested)
        run.reply()
        assert run.sent[-1] == "stock: request"
        assert run.event(ev.ResumeRequested).sent[-1] == "stock: handler"


class TestCompensation:
    def compensating(self) -> Run:
        return Run.of(BEFORE, remote(), AFTER).requested().reply().fails()

    @pytest.mark.parametrize("how", [400, 500, "timeout"])
    def test_it_is_retried_with_a_new_request(self, how: Any) -> None:
        run = self.compensating().done().arrived()
        run.later(HOUR) if how == "timeout" else run.reply(how)
        run.later(2)
        assert run.sent[-2:] == ["-stock: request", "-stock: build"]
        assert (run.back(), run.status) == (COMPENSATIONS, "COMPENSATED")
        assert len(set(run.tokens)) == 3

    def test_its_attempts_end(self) -> None:
        run = self.compensating().done().arrived().reply(400).later(2).done().arrived().reply(400)
        run.back()
        assert (run.status, run.step.status) == ("STUCK", "COMPENSATION_FAILED")
        assert "status 400" in str(run.step.compensation_error)
        run.event(ev.RetryRequested)
        assert run.sent[-1] == "-stock: build"
        assert (run.back(), run.status) == (["-stock: request"], "COMPENSATED")

    def test_a_reply_to_an_earlier_request_of_it_changes_nothing(self) -> None:
        run = self.compensating().done().arrived().reply(500).later(2).done().arrived()
        before = run.execution
        assert run.reply(200, run.tokens[1]).execution is before


class TestPivot:
    def test_a_request_without_a_reply_is_made_again_and_then_needs_an_operator(self) -> None:
        run = Run.of(BEFORE, remote(compensated=False, pivot=True), AFTER).requested()
        for _ in range(3):
            run.reply(500).later(300).done().arrived()
        assert run.reply(500).status == "STUCK"

    def test_a_refusal_leads_back(self) -> None:
        run = Run.of(BEFORE, remote(compensated=False, pivot=True), AFTER).requested()
        assert run.reply(400).sent[-1] == "-a"

    def test_a_handler_that_fails_after_it_is_run_again(self) -> None:
        pivot = PlanStep("a", Call("do.a"), pivot=True)
        step = remote(compensated=False, handled="S", max_attempts=None)
        step = RemoteStep(**{**vars(step), "on_success": Call("s", "context", max_attempts=None)})
        run = Run.of(pivot, step).requested().reply().fails().later(300)
        assert run.sent[-2:] == ["stock: handler", "stock: handler"]


def test_a_plan_with_one_comes_back_equal() -> None:
    plan = Plan("remote", (remote(handled="SE", timeout=5.0), remote("other", read_only=True)))
    assert Plan.from_text(plan.text) == plan
    tasks = [
        "ask.stock",
        "compensate.stock",
        "succeeded",
        "refused",
        "ask.other",
        "compensate.other",
    ]
    assert [call.task for _, call, _ in plan.calls()] == tasks
    assert "0  stock: request of ask.stock <-> compensate.stock" in str(plan)
    renamed = plan.with_calls(lambda call: Call(f"x.{call.task}"))
    assert [call.task for _, call, _ in renamed.calls()] == [f"x.{task}" for task in tasks]


def test_an_execution_with_one_comes_back_equal() -> None:
    run = Run.of(BEFORE, remote(handled="S"), AFTER).requested()
    for _ in range(2):
        assert SagaExecution.from_raw(json.loads(json.dumps(run.execution.raw))) == run.execution
        run.reply()


def test_the_ids_of_requests_are_not_those_of_steps() -> None:
    ref = StepRef((2, 0), Direction.FORWARD, 3)
    assert ref.request_id("s") == "s~r2.0~3"
    assert ref._replace(direction=Direction.COMPENSATION).request_id("s") == "s~s2.0~3"
    assert StepRef.parse(ref.request_id("s")) is None
