"""A walk through every state of small sagas with a remote step, and mutants that it must find.

In each state everything happens that can: our workers succeed, fail and die; the broker takes a
request or does not; the other service does it, refuses it, fails before or after its effect;
replies arrive, twice, late, out of order, or are lost; timeouts pass; an operator cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from celery_saga.core import decide as decider
from celery_saga.core import events as ev
from celery_saga.core.decide import (
    claims,
    decide,
    outcomes,
    overdue,
    remote,
    rollback,
    transitions,
)
from celery_saga.core.events import Decision
from celery_saga.core.execution import Claim, Direction, Failure, SagaExecution, StepRef, StepStatus
from celery_saga.core.plan import Call, Plan, PlanStep, RemoteStep
from celery_saga.core.state import Request

PATH, AT = (0,), 1_000.0

#: What the other service may do with a request: whether it has an effect, and what it replies.
SERVES = {"done": (True, 200), "refused": (False, 400), "failed": (False, 500), "half": (True, 500)}


@dataclass(frozen=True)
class World:
    """A saga, and what is true outside of it.

    Args:
        out: requests that the broker has and the service has not served: token, direction.
        replies: that are on their way: token, status.
        sent: how often each request was given to the broker.
        effect: token of the request whose effect is there; empty: none is.
        open: token of the request that was sent, not refused and not compensated; empty: none is.
        heard: tokens of requests whose success was replied, and has arrived.
        faults: that may still happen.
    """

    execution: SagaExecution
    out: tuple[tuple[str, str], ...] = ()
    replies: tuple[tuple[str, int], ...] = ()
    sent: tuple[str, ...] = ()
    effect: str = ""
    open: str = ""
    heard: frozenset[str] = frozenset()
    faults: int = 3
    now: float = AT

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for worlds that differ in nothing but times."""
        steps = tuple(
            (
                path,
                it.status,
                it.effect,
                it.request and (it.request.token, it.request.sent, it.reply_status),
                it.requests,
                it.attempts,
                it.lost,
                it.late_effect,
                it.claim is not None,
                it.not_before is not None,
            )
            for path, it in sorted(self.execution.steps.items())
        )
        run = self.execution
        own = (run.status, run.direction, run.active, run.journal, run.rollback_reason is None)
        true = (self.out, self.replies, self.sent, self.effect, self.open, self.heard)
        return (*own, steps, *true, self.faults)


class Broken(AssertionError):
    """A state in which an invariant does not hold; the text names it."""


def apply(world: World, event: Any, **changes: Any) -> World:
    """The world after an event, with the messages that were sent."""
    world = replace(world, **changes)
    decision = decide(world.execution, event)
    after, sent = decision.execution, world.sent
    for command in decision.commands:
        if isinstance(command, ev.Dispatch):
            record = after.steps[command.ref.path]
            if record.open_request is not None and command.ref.path == PATH:
                if record.open_request.sent:
                    raise Broken("a request that the broker has is sent again")
                sent = (*sent, record.open_request.token)
    return replace(world, execution=after, sent=sent)


def moves(world: World) -> Iterator[World]:
    """All that may happen next."""
    run = world.execution
    for ref in run.active:
        yield from (
            _of_request(world, ref) if run.steps[ref.path].open_request else _of_task(world, ref)
        )
    for place, (token, direction) in enumerate(world.out):
        rest = world.out[:place] + world.out[place + 1 :]
        for how, (effect, status) in SERVES.items():
            cost = how != "done"
            if cost <= world.faults:
                there = token if direction == "f" else ""
                there = there if effect else world.effect
                back = direction == "c" and effect
                yield replace(
                    world,
                    out=rest,
                    effect=there,
                    open="" if back else world.open,
                    replies=(*world.replies, (token, status)),
                    faults=world.faults - cost,
                )
    for place, (token, status) in enumerate(world.replies):
        rest = world.replies[:place] + world.replies[place + 1 :]
        yield received(world, token, status, replies=rest)
        if world.faults:
            yield received(world, token, status, faults=world.faults - 1)  # it comes again
            yield replace(world, replies=rest, faults=world.faults - 1)  # it is lost
    if world.faults and run.rollback_reason is None and not run.settled:
        yield apply(world, ev.CancelRequested(world.now), faults=world.faults - 1)
    due = [it.not_before for _, it in run.steps.items() if it.not_before is not None]
    if due and not run.settled:
        now = max(world.now, *due)
        yield apply(world, ev.Overdue(now), now=now)


def received(world: World, token: str, status: int, **changes: Any) -> World:
    """A reply arrives; one with another token, or a second one, must change nothing."""
    ref = StepRef(PATH, Direction.FORWARD, 0)
    reply = {"status": status, "content": "null", "related_services": []}
    if status == 400 and world.open == token:
        changes["open"] = ""
    if status == 200:
        changes["heard"] = world.heard | {token}
    after = apply(world, ev.ReplyReceived(world.now, ref, token, reply), **changes)
    for forged in ("forged", ""):
        event = ev.ReplyReceived(world.now, ref, forged, reply)
        if decide(after.execution, event).execution is not after.execution:
            raise Broken("a forged reply changes something")
    return after


def _of_request(world: World, ref: StepRef) -> Iterator[World]:
    request = world.execution.steps[ref.path].open_request
    assert request is not None
    if not request.sent:
        known = (request.token, ref.direction.value)
        sent = request.token if ref.direction is Direction.FORWARD else world.open
        yield apply(world, ev.RequestSent(world.now, ref), out=(*world.out, known), open=sent)
        if world.faults:  # the broker is unavailable, and the sweep sends it again
            now = world.now + 10
            yield apply(world, ev.Overdue(now), now=now, faults=world.faults - 1)
    elif world.faults or request.token not in dict((*world.out, *world.replies)):
        now = max(world.now, request.until or 0.0)
        cost = min(1, world.faults)
        yield apply(world, ev.Overdue(now), now=now, faults=world.faults - cost)


def _of_task(world: World, ref: StepRef) -> Iterator[World]:
    run, token = world.execution, f"claim {ref}"
    taken = claims.claimed(run, ref, Claim(token, "w", at=world.now))
    assert taken is not None
    held = replace(world, execution=taken)
    record, node = taken.steps[ref.path], taken.plan.step(ref.path)
    request = None
    if node.is_remote and not record.reply_status:
        message = {"target": "t", "task": "t", "args": [], "kwargs": {}, "options": {}}
        request = Request(f"token {ref}", message)
    yield apply(held, ev.StepSucceeded(world.now, ref, token, request=request))
    if world.faults:
        left = world.faults - 1
        failure = Failure("Error", "no")
        yield apply(held, ev.StepFailed(world.now, ref, failure, token=token), faults=left)
        yield apply(held, ev.ClaimVoided(world.now, ref, token), faults=left)


def check(world: World, node: RemoteStep) -> None:
    """The invariants."""
    run, record = world.execution, world.execution.steps[PATH]
    if record.open_request is not None and run.ref(PATH) and record.claim is not None:
        raise Broken("a worker has claimed a request")
    quiet = not world.out and not world.replies
    known = world.effect in world.heard  # else the reply was lost, or comes later
    if run.status == "COMPENSATED" and quiet and known and node.compensation:
        raise Broken("an effect that was reported is left")
    if run.status == "COMPENSATED" and world.open not in ("", *world.heard) and node.compensation:
        raise Broken("an effect that may be there is not compensated")
    if run.status == "COMPENSATED" and record.status is StepStatus.UNKNOWN:
        raise Broken("it is not stuck at what it does not know")
    if run.status == "COMPLETED":
        if record.status is not StepStatus.SUCCEEDED:
            raise Broken("it is completed without the step")
        if run.journal and record.effect is False and PATH in run.journal:
            raise Broken("the journal has a step without an effect")
    if not run.settled and not (run.active or run.due_at is not None):
        raise Broken("nothing continues it")


def walk(node: RemoteStep, limit: int = 100_000) -> int:
    """All states of a saga of that step and a local one; returns how many there are."""
    plan = Plan("walk", (node, PlanStep("b", Call("do.b"), Call("compensate.b"))))
    first = World(SagaExecution.create("s", plan, {}, at=AT))
    first = apply(first, ev.Started(AT))
    seen, left = {first.key}, [first]
    while left:
        world = left.pop()
        check(world, node)
        for after in moves(world):
            if after.key not in seen:
                seen.add(after.key)
                left.append(after)
                assert len(seen) < limit, "it does not end"
    return len(seen)


def step(*, compensated: bool = True, handled: str = "", **about: Any) -> RemoteStep:
    return RemoteStep(
        "stock",
        Call("ask", "context"),
        Call("ask back", "context", max_attempts=2) if compensated else None,
        on_success=Call("succeeded", "context") if "S" in handled else None,
        on_error=Call("refused", "context") if "E" in handled else None,
        **about,
    )


STEPS = {
    "plain": step(),
    "handled": step(handled="SE"),
    "without a compensation": step(compensated=False),
    "only read": step(compensated=False, read_only=True, handled="S"),
}


@pytest.mark.parametrize("kind", STEPS)
def test_no_state_breaks_an_invariant(kind: str) -> None:
    assert walk(STEPS[kind]) > 300


def without_late_effects(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(remote, "_late", lambda execution, event, step: Decision(execution))


def without_tokens(patch: pytest.MonkeyPatch) -> None:
    def received(execution: SagaExecution, event: ev.ReplyReceived) -> Decision:
        request = execution.steps[PATH].open_request
        token = event.token if request is None else request.token
        return remote.on_reply_received(execution, replace(event, token=token))

    patch.setitem(decider._HANDLERS, ev.ReplyReceived, received)


def a_cancel_forgets_the_request(patch: pytest.MonkeyPatch) -> None:
    original = rollback.cancelled_dispatch

    def cancelled(execution: SagaExecution, path: Any) -> SagaExecution:
        if execution.steps[path].open_request is not None:
            execution = execution.with_step(path, effect=False)
        return original(execution, path)

    patch.setattr(rollback, "cancelled_dispatch", cancelled)


def a_request_has_no_effect_until_its_reply(patch: pytest.MonkeyPatch) -> None:
    original = transitions._with_request

    def sent(execution: SagaExecution, path: Any, forward: bool, at: float) -> SagaExecution:
        effect = execution.steps[path].effect
        return original(execution, path, forward, at).with_step(path, effect=effect)

    patch.setattr(transitions, "_with_request", sent)


def a_compensation_ends_with_its_request(patch: pytest.MonkeyPatch) -> None:
    original = outcomes.requested

    def made(execution: SagaExecution, event: ev.StepSucceeded) -> Decision:
        if event.ref.direction is Direction.COMPENSATION:
            return rollback.compensated(execution, event.ref.path, event.at)
        return original(execution, event)

    patch.setattr(outcomes, "requested", made)


def a_request_is_sent_again_at_each_check(patch: pytest.MonkeyPatch) -> None:
    def checked(execution: SagaExecution, ref: StepRef, at: float) -> Decision:
        return Decision(transitions.check_by(execution, at + 2), (ev.Dispatch(ref),))

    patch.setattr(overdue, "check_request", checked)


#: A defect -> the invariant by which the walk finds it.
MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    without_late_effects: "an effect that was reported is left",
    without_tokens: "a forged reply changes something|an effect that was reported is left",
    a_cancel_forgets_the_request: "an effect that may be there is not compensated",
    a_request_has_no_effect_until_its_reply: "an effect that may be there is not compensated",
    a_compensation_ends_with_its_request: "an effect that .* is (left|not compensated)",
    a_request_is_sent_again_at_each_check: "a request that the broker has is sent again",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_it_finds_a_defect(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises(Broken, match=MUTANTS[mutant]):
        walk(STEPS["handled"])
