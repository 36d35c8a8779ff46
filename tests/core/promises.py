"""What a state machine for sagas has to keep to, whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from celery_saga.core import events as ev
from celery_saga.core.context.data import PartialValues
from celery_saga.core.context.lazy import UNREAD, NotLoaded
from celery_saga.core.decide import decide
from celery_saga.core.decide.claims import claimed
from celery_saga.core.execution import (
    SETTLED,
    TERMINAL,
    Claim,
    Failure,
    SagaExecution,
    SagaStatus,
    StepRef,
    StepStatus,
)
from celery_saga.core.plan import Choice, Path, Plan, PlanStep, Wait
from celery_saga.core.steps import Steps
from tests.core.tree_promises import SHARED, TreePromises, leaves_of, seen_at, update_of
from tests.core.worlds import COMPENSATION, FORWARD, Body, World, key_of_record, with_truth
from tests.invariants import Invariant

BOOM = Failure("Boom", "it broke")
#: Long enough for every delay to be over.
LONG = 100_000.0

_UNSUCCESSFUL = frozenset({StepStatus.UNKNOWN, StepStatus.FAILED, StepStatus.PENDING})


class Complaint(NamedTuple):
    """An invariant that is broken, and by what."""

    invariant: Invariant
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"


@dataclass
class Found:
    """What a walk has seen."""

    worlds: int = 0
    transitions: int = 0
    checks: int = 0
    #: What was looked at, broken or not.
    checked: set[Invariant] = field(default_factory=set)
    #: Reports for which the step and the next one were enough to decide on.
    enough: int = 0
    statuses: set[SagaStatus] = field(default_factory=set)
    step_statuses: set[StepStatus] = field(default_factory=set)


class Promises:
    """Hands events to the state machine, and holds what follows against the truth.

    Args:
        plan: of the saga.
        values: its context at the start.
    """

    def __init__(self, plan: Plan, values: Mapping[str, Any] | None = None) -> None:
        self._plan = plan
        #: Paths of the steps and conditions.
        leaves = list(leaves_of(plan, values))
        self.tasks = tuple(path for path in leaves if isinstance(plan.at(path), PlanStep | Choice))
        steps = {path: plan.step(path) for path in self.tasks}
        self._undoable = {path: step.compensation is not None for path, step in steps.items()}
        self._read_only = {path: step.read_only for path, step in steps.items()}
        self.waits = tuple(path for path in leaves if isinstance(plan.at(path), Wait))
        self._in_tree = None if plan.linear else TreePromises(plan, self.require)
        self._probed: set[object] = set()
        self.found = Found()
        #: Invariants that were found broken, with what was seen, and not noted yet.
        self.complaints: list[Complaint] = []

    def after(self, world: World, event: ev.Event, body: Body | None = None) -> World:
        """The world after the state machine has got ``event``, checked."""
        before = world.execution
        try:
            decision = decide(before, event)
        except Exception as error:
            self.require(Invariant.DECIDE_IS_TOTAL, False, f"decide raised {error!r}")
            return world
        if body is not None and not isinstance(event, ev.StepSucceeded):
            self._same(
                decision.execution,
                event,
                Invariant.CLAIM_FOR_REPORT,
                "a second copy of a report did something",
            )
        then = world._replace(execution=decision.execution)
        self._check_answer(before, event, decision)
        if body is not None:
            self._check_parts(before, body.ref, event, decision)
        then = self._in_debt(world, then, event, body)
        if self._in_tree is not None:
            then = self._in_tree.after(world, then, event, body, decision.commands)
        self._check_published(before, event, decision)
        if isinstance(event, ev.ClaimVoided) and body is not None and body.ref.direction is FORWARD:
            self._check_once(decision.execution, event.ref.path)
        for command in decision.commands:
            if isinstance(command, ev.Dispatch):
                then = self._sent(before, then, command.ref)
        self.check(world, then, event)
        return then

    def begins(self, world: World, then: World, ref: StepRef) -> None:
        """A body has the claim, and is about to run."""
        self.check(world, then, None)
        if self._in_tree is not None:
            self._in_tree.begins(then.execution, ref)

    def result_of(self, execution: SagaExecution, ref: StepRef) -> Mapping[str, Any]:
        """What the task of ``ref`` returns."""
        if self._in_tree is None:
            return {}
        if ref.direction is COMPENSATION:
            return {SHARED: "compensated"}
        return update_of(execution, ref.path, seen_at(execution, ref.path))

    def _check_once(self, after: SagaExecution, path: Path) -> None:
        """What became of a step whose claim is void."""
        again = after.steps[path].status in (StepStatus.RUNNING, StepStatus.WAITING)
        once = not (self._plan.step(path).action.rerun or self._read_only[path])
        before_pivot = self._plan.pivot is None or path < self._plan.pivot
        text = "an early-ack step is run again"
        self.require(Invariant.AT_MOST_ONCE, not (again and once and before_pivot), text)

    def _check_answer(self, before: SagaExecution, event: ev.Event, decision: ev.Decision) -> None:
        """What single events have to lead to, whatever else happens."""
        after, pivot = decision.execution, self._plan.pivot
        if isinstance(event, ev.CancelRequested) and after is not before:
            early = pivot is None or before.steps[pivot].epoch == 0
            self.require(Invariant.PIVOT, early, "a saga was cancelled after its pivot was sent")
        elif isinstance(event, ev.StepFailed) and event.final and after is not before:
            turned = after.rollback_reason is not None or after.held is not None
            branch = turned and after.ref(event.ref.path) is None  # others may still be claimed
            over = after.settled or after.direction is COMPENSATION or branch
            self.require(Invariant.CAPS, over, "a final failure was not final")
        elif isinstance(event, ev.Overdue):
            for ref in before.active:
                self._check_sent_again(before, event, decision, ref)

    def _check_sent_again(
        self, before: SagaExecution, event: ev.Overdue, decision: ev.Decision, ref: StepRef
    ) -> None:
        step, after = before.steps[ref.path], decision.execution
        missing = event.state_of(ref) is ev.MessageState.MISSING
        waits = missing and step.claim is None and after.ref(ref.path) == ref
        if waits and after.deadline == before.deadline and event.at >= before.updated_at + LONG:
            again = ev.Dispatch(ref, step.retries) in decision.commands
            self.require(Invariant.SENT_AGAIN, again, "a message that is lost stays so")

    def _check_published(
        self, before: SagaExecution, event: ev.Event, decision: ev.Decision
    ) -> None:
        """What settles, or is checked with a result that is not stored, is published."""
        after = decision.execution
        said = [command for command in decision.commands if isinstance(command, ev.NotifyCallers)]
        again_stuck = after.stuck_count > before.stuck_count  # at another step, by a skip
        if after.settled and (again_stuck or not before.settled):
            self.require(
                Invariant.RESULT,
                said == [ev.NotifyCallers(after.status)],
                "a saga settled in silence",
            )
            wanted = before.wants_result or before.callbacks is not None
            self.require(
                Invariant.RESULT,
                after.result_pending is wanted,
                "a result is forgotten, or unwanted",
            )
        elif said and before.status is after.status:
            again = ev.NotifyCallers(after.status, again=True)
            older = isinstance(event, ev.ResultStored) and event.status is not after.status
            reason = before.result_pending or older
            self.require(Invariant.RESULT, said == [again] and reason, "published for nothing")

    def _check_parts(
        self, before: SagaExecution, ref: StepRef, event: ev.Event, decision: ev.Decision
    ) -> None:
        """A worker that has read only its own step and the one after it decides the same."""
        if before.ref(ref.path) != ref or not before.plan.linear:
            return  # of a tree a worker reads more
        index = ref.path[0]
        places = [index, index + 1][: len(before.steps) - index]
        if ref.direction is COMPENSATION:
            below = [place for place in range(index) if self._undoable[(place,)]]
            places = [index, *below[-1:]]
        steps = Steps(before.plan, {(place,): before.steps[place] for place in places}, whole=False)
        nothing = PartialValues({}, frozenset())
        try:
            parts = decide(replace(before, steps=steps, values=nothing, history=UNREAD), event)
        except NotLoaded:
            return
        except Exception as error:
            text = f"decide raised {error!r} on parts of a saga"
            return self.require(Invariant.DECIDE_IS_TOTAL, False, text)
        self.found.enough += 1
        after = decision.execution
        read = dict(steps.items()) | dict(parts.execution.steps.items())
        merged = [read.get((place,), step) for place, step in enumerate(before.steps)]
        history = (*before.history, *parts.execution.history.appended)  # type: ignore[attr-defined]
        whole = replace(parts.execution, steps=tuple(merged), values=before.values, history=history)
        same = (whole, parts.commands) == (after, decision.commands)
        self.require(
            Invariant.DECIDE_IS_TOTAL, same, "parts of a saga decide otherwise than the whole"
        )

    def _in_debt(self, world: World, then: World, event: ev.Event, body: Body | None) -> World:
        """What the state machine has to know now: an effect, sure or possible, or its reversal."""
        if body is None:
            return then
        path, truth = body.ref.path, then.truth[body.ref.path]
        if body.ref.direction is COMPENSATION:
            done = isinstance(event, ev.StepSucceeded) and truth.debt is not None
            if (
                done
                and then.execution is not world.execution
                and body.compensation_round >= truth.debt
            ):
                return with_truth(then, path, truth._replace(debt=None, late=False))
            return then
        if isinstance(self._plan.at(path), Choice):
            return then  # what a condition answers has no effect
        report = isinstance(event, ev.StepSucceeded) or getattr(event, "effect", False)
        if report:
            failed = isinstance(event, ev.StepFailed)
            then = then._replace(heard=then.heard | {(body.ref, body.retries, failed)})
        if report or isinstance(event, ev.ClaimVoided):
            late = world.execution.direction is COMPENSATION
            then = with_truth(then, path, truth._replace(debt=truth.sent + 1, late=late))
        return then

    def _sent(self, before: SagaExecution, then: World, ref: StepRef) -> World:
        old, step = before.steps[ref.path], then.execution.steps[ref.path]
        self.require(
            Invariant.SAVED_BEFORE_SENT,
            then.execution.ref(ref.path) == ref,
            "what was sent is not outstanding",
        )
        again = before.ref(ref.path) == ref
        self.require(
            Invariant.NEW_EPOCH,
            again or ref.epoch == old.epoch + 1 or (ref.epoch > old.epoch and self._in_tree),
            "a dispatch without a new epoch",
        )
        paused = then.execution.status is SagaStatus.PAUSED
        self.require(Invariant.PAUSE, again or not paused, "a paused saga sent a step")
        if ref.direction is FORWARD:
            self.require(
                Invariant.CANCEL,
                again or before.rollback_reason is None,
                "a step was sent after the cancel",
            )
            return then
        running = [body.token for body in then.bodies if body.state == "running"]
        running = [token for token in running if token.startswith("f")]
        self.require(
            Invariant.NO_COMPENSATION_UNDER_CLAIM,
            not running,
            f"a compensation was sent while {running} had the claim",
        )
        truth = then.truth[ref.path]
        if not again:
            self._check_order(then, ref.path)
            never_claimed = step.error is not None and step.error.type == "NeverClaimed"
            reason = truth.debt is not None or never_claimed
            text = f"step {ref.path} left nothing behind and is compensated"
            self.require(Invariant.COMPENSATED_FOR_A_REASON, reason, text)
        return with_truth(
            then, ref.path, truth._replace(sent=max(truth.sent, step.compensation_round))
        )

    def _check_order(self, world: World, path: Path) -> None:
        for other in self.tasks:
            truth, step = world.truth[other], world.execution.steps[other]
            left_out = step.status is StepStatus.COMPENSATION_FAILED
            due = self._undoable[other] and truth.debt is not None and not left_out
            if other != path and self._comes_first(world, other, path):
                text = f"step {path} was compensated before step {other}"
                self.require(Invariant.REVERSE_ORDER, not due, text)

    def _comes_first(self, world: World, other: Path, path: Path) -> bool:
        """Whether ``other`` has to be compensated before ``path``."""
        if self._in_tree is None:
            return other > path
        return self._in_tree.compensated_first(world, other, path)

    def check(self, world: World, then: World, event: ev.Event | None) -> None:
        before, after = world.execution, then.execution
        self.found.checks += 1
        if self._in_tree is None:
            alone = len(after.active) <= 1
            self.require(Invariant.ONE_ACTIVE_STEP, alone, "two steps are outstanding")
        else:
            self._in_tree.check(before, after)
        for ref in after.active:
            newest = ref.epoch == after.steps[ref.path].epoch
            self.require(
                Invariant.ONE_ACTIVE_STEP, newest, "an older dispatch of a step is outstanding"
            )
            self.require(
                Invariant.SETTLED_STAYS, not after.settled, "a settled saga has an outstanding step"
            )
        for path, new in after.steps.items():
            old, now = before.steps[path], after.ref(path)
            self.require(Invariant.NEW_EPOCH, new.epoch >= old.epoch, "an epoch went down")
            if new.epoch == old.epoch and now is not None:
                same = now == before.ref(path)
                self.require(Invariant.NEW_EPOCH, same, "two dispatches under one epoch")
        self._check_counts(world, then)
        if before.direction is FORWARD and after.direction is COMPENSATION:
            self._check_turn(then)
        elif after.direction is FORWARD and after.rollback_reason is not None:
            awaited = any(after.steps[ref.path].claim is not None for ref in after.active)
            self.require(
                Invariant.CANCEL,
                awaited,
                "no worker has the claim, and the saga is not rolled back",
            )
        if after.status not in SETTLED:
            self.require(Invariant.SETTLES, after.due_at is not None, "it is not checked again")
        else:
            looked_at = after.due_at is not None
            self.require(
                Invariant.RESULT, looked_at is after.result_pending, "a settled saga is looked at"
            )
        self.require(
            Invariant.RESULT,
            after.settled or not after.result_pending,
            "the result of a saga that runs",
        )
        if before.callbacks is not None and after.callbacks is None:
            stored = isinstance(event, ev.ResultStored)
            self.require(
                Invariant.CALLERS, stored, "the callers were forgotten before they were notified"
            )
        if before.status is not after.status:
            self._check_status(then, before.status, event)

    def _check_counts(self, world: World, then: World) -> None:
        """How often a step is run and sent again, and in how many rounds it is compensated."""
        most = self._plan.max_redeliveries
        for path, step in then.execution.steps.items():
            self.require(Invariant.CAPS, step.lost <= most + 1, "a step was run too often")
            sent = step.unclaimed <= 2 * (most + 1)
            self.require(Invariant.CAPS, sent, "a message was sent too often")
            if path not in then.truth:
                continue
            old, new = world.truth[path], then.truth[path]
            late = step.compensation_round <= max(old.sent, old.debt or 0, new.debt or 0)
            self.require(Invariant.LATE_EFFECT, late, "a new round without a late effect")

    def _check_turn(self, world: World) -> None:
        """No rollback from a pivot that has taken effect, or may have."""
        pivot = self._plan.pivot
        if pivot is not None and not world.by_hand:
            due = [truth.debt is not None for path, truth in world.truth.items() if path >= pivot]
            self.require(Invariant.PIVOT, not any(due), "the saga was rolled back after its pivot")

    def _check_status(self, world: World, was: SagaStatus, event: ev.Event | None) -> None:
        execution = world.execution
        if was in TERMINAL:
            effect_tokens = isinstance(event, (ev.StepSucceeded, ev.StepFailed))
            back = was is SagaStatus.COMPENSATED and effect_tokens
            self.require(Invariant.SETTLED_STAYS, back, f"{was} became {execution.status}")
        if was is SagaStatus.PAUSED and not execution.settled:
            asked = isinstance(event, (ev.ResumeRequested, ev.CancelRequested))
            self.require(Invariant.PAUSE, asked, "a pause ended by itself")
        if was is SagaStatus.STUCK:
            verbs = (ev.RetryRequested, ev.SkipRequested, ev.ResolveRequested, ev.CancelRequested)
            self.require(
                Invariant.SETTLED_STAYS,
                isinstance(event, verbs),
                f"STUCK became {execution.status} by itself",
            )
        if execution.status is SagaStatus.COMPLETED and not world.by_hand:
            for path in execution.steps.paths():
                step, truth = execution.steps[path], world.truth.get(path)
                no_effect = truth is None or isinstance(self._plan.at(path), Choice)
                done = step.status is StepStatus.SUCCEEDED and (no_effect or truth.standing)
                around = (execution.steps.known(path[:depth]) for depth in range(1, len(path) + 1))
                skipped = any(each and each.status is StepStatus.SKIPPED for each in around)
                self.require(Invariant.COMPLETED, done or skipped, "COMPLETED, but not all of it")
        elif execution.status is SagaStatus.COMPENSATED:
            self._check_compensated(world)
        elif execution.status is SagaStatus.STUCK and execution.direction is COMPENSATION:
            self._check_stuck(world)

    def _check_compensated(self, world: World) -> None:
        loose = {body.ref.path for body in world.bodies if body.state == "loose"}
        for path, truth in world.truth.items():
            if self._undoable[path]:
                broken = Invariant.LATE_EFFECT if truth.late else Invariant.COMPENSATED
                compensated = truth.debt is None
                self.require(
                    broken, compensated, f"COMPENSATED, but step {path} was not compensated"
                )
                hidden = path in loose
                self.require(
                    Invariant.COMPENSATED,
                    not truth.standing or hidden,
                    f"COMPENSATED, but the effect of step {path} exists",
                )
            elif world.execution.steps[path].status in _UNSUCCESSFUL:
                due = truth.debt is not None and not truth.late and not self._read_only[path]
                self.require(
                    Invariant.COMPENSATED,
                    not due,
                    f"COMPENSATED, but the effect of step {path} may exist",
                )

    def _check_stuck(self, world: World) -> None:
        """Only compensations that failed are left out, and steps that have none."""
        steps = world.execution.steps
        failed = any(step.status is StepStatus.COMPENSATION_FAILED for step in steps)
        self.require(Invariant.STUCK, failed or world.execution.unresolved(), "STUCK for nothing")
        for path, truth in world.truth.items():
            step = steps[path]
            due = self._undoable[path] and truth.debt is not None
            failed = step.status is StepStatus.COMPENSATION_FAILED
            self.require(
                Invariant.STUCK,
                failed or not due,
                f"STUCK, but the compensation of step {path} was not tried",
            )

    def probe(self, world: World) -> None:
        """Reports that are stale or were counted before change nothing, whenever they come."""
        execution, at = world.execution, time_after(world.execution)
        for ref, retries, failed in world.heard:
            token = f"{ref}/{retries}"
            if failed:
                event: ev.Event = ev.StepFailed(at, ref, BOOM, token, effect=True)
            else:
                event = ev.StepSucceeded(at, ref, token)
            self._same(
                execution,
                event,
                Invariant.CLAIM_FOR_REPORT,
                f"a report of {token} that was counted did something",
            )
        head = key_of_record(execution)
        for path, step in execution.steps.items():
            here, claimed_by = path == execution.current, step.claim and step.claim.token
            key = (head, here, path, step.epoch, claimed_by, key_of_record(step))
            if key not in self._probed:
                self._probed.add(key)
                for epoch in range(1, step.epoch + 1):
                    self._probe_ref(execution, StepRef(path, FORWARD, epoch), at)
                    self._probe_ref(execution, StepRef(path, COMPENSATION, epoch), at)

    def _probe_ref(self, execution: SagaExecution, ref: StepRef, at: float) -> None:
        newest = execution.ref(ref.path) == ref
        events: list[ev.Event] = [
            ev.StepFailed(at, ref, BOOM, "foreign"),
            ev.StepFailed(at, ref, BOOM, retries=9),
            ev.StepReleased(at, ref, "foreign", 0, at),
            ev.ClaimVoided(at, ref, "foreign"),
            ev.ClaimVoided(at, ref, instance="elsewhere"),
            ev.StepRevoked(at, ref, BOOM, "elsewhere"),
            ev.TaskUnknown(at, ref),
        ]
        if ref.direction is COMPENSATION:
            events.append(ev.StepSucceeded(at, ref, "foreign"))
        if newest and execution.steps[ref.path].claim is None:
            events = [event for event in events if isinstance(event, ev.ClaimVoided)]
        for event in events:
            invariant = Invariant.CLAIM_FOR_REPORT
            if newest and isinstance(event, (ev.ClaimVoided, ev.StepRevoked)):
                invariant = Invariant.CLAIM_KEPT
            text = f"a stale {type(event).__name__} did something"
            self._same(execution, event, invariant, text)
        step = execution.steps[ref.path]
        if not newest or step.claim is not None:
            retries = step.retries if newest else 9
            taken = claimed(execution, ref, Claim("foreign", "w", retries, at))
            self.require(
                Invariant.CLAIM_BEFORE_BODY,
                taken is None,
                "a stale or second message got the claim",
            )

    def require(self, invariant: Invariant, condition: object, text: str) -> None:
        self.found.checked.add(invariant)
        if not condition:
            self.complaints.append(Complaint(invariant, text))

    def _same(
        self, execution: SagaExecution, event: ev.Event, invariant: Invariant, text: str
    ) -> None:
        self.found.checks += 1
        decision = decide(execution, event)
        same = decision.execution is execution and not decision.commands
        self.require(invariant, same, text)


def time_after(execution: SagaExecution, later: float = 1.0) -> float:
    """A time after all that is in the execution; ``later`` in seconds."""
    times = [execution.updated_at]
    if later > 1:
        times += [it.not_before for _, it in execution.steps.items() if it.not_before is not None]
    return later + max(times)
