"""What a state machine for sagas has to keep to, whatever happens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

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
from celery_saga.core.plan import Plan
from celery_saga.core.steps import Steps
from tests.core.worlds import COMPENSATION, FORWARD, Body, World, key_of_record, told
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
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._undoable = [step.compensation is not None for step in plan.steps]
        self._read_only = [step.read_only for step in plan.steps]
        self._probed: set[object] = set()
        self.found = Found()
        #: Invariants that were found broken, with what was seen, and not noted yet.
        self.complaints: list[Complaint] = []

    def after(self, world: World, event: ev.Event, body: Body | None = None) -> World:
        """The world after the state machine has been told of ``event``, checked."""
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
        self._check_announced(before, event, decision)
        if isinstance(event, ev.ClaimVoided) and body is not None and body.ref.direction is FORWARD:
            self._check_once(decision.execution, event.ref.path[0])
        for command in decision.commands:
            if isinstance(command, ev.Dispatch):
                then = self._sent(before, then, command.ref)
        self.check(world, then, event)
        return then

    def _check_once(self, after: SagaExecution, index: int) -> None:
        """What became of a step whose claim is void."""
        again = after.steps[index].status in (StepStatus.RUNNING, StepStatus.WAITING)
        once = not (self._plan.steps[index].action.rerun or self._read_only[index])
        before_pivot = self._plan.pivot is None or (index,) < self._plan.pivot
        text = "an early-ack step is run again"
        self.require(Invariant.AT_MOST_ONCE, not (again and once and before_pivot), text)

    def _check_answer(self, before: SagaExecution, event: ev.Event, decision: ev.Decision) -> None:
        """What single events have to lead to, whatever else happens."""
        after, pivot = decision.execution, self._plan.pivot
        if isinstance(event, ev.CancelRequested) and after is not before:
            early = pivot is None or before.steps[pivot].epoch == 0
            self.require(Invariant.PIVOT, early, "a saga was cancelled after its pivot was sent")
        elif isinstance(event, ev.StepFailed) and event.final and after is not before:
            over = after.settled or after.direction is COMPENSATION
            self.require(Invariant.CAPS, over, "a final failure was not final")
        elif isinstance(event, ev.Overdue) and event.message is ev.MessageState.MISSING:
            ref = before.first_active
            step = before.steps[ref.path[0] if ref else 0]
            waits = ref is not None and step.claim is None and after.ref(ref.path[0]) == ref
            if ref and waits and after.deadline == before.deadline and event.at > LONG:
                again = ev.Dispatch(ref, step.retries)
                self.require(
                    Invariant.SENT_AGAIN,
                    again in decision.commands,
                    "a message that is gone stays so",
                )

    def _check_announced(
        self, before: SagaExecution, event: ev.Event, decision: ev.Decision
    ) -> None:
        """Who settles, or is looked at with a result that is not stored, is announced."""
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
            self.require(Invariant.RESULT, said == [again] and reason, "announced for nothing")

    def _check_parts(
        self, before: SagaExecution, ref: StepRef, event: ev.Event, decision: ev.Decision
    ) -> None:
        """A worker that has read only its own step and the one after it decides the same."""
        if before.ref(ref.path[0]) != ref:
            return
        places = [ref.path[0], ref.path[0] + 1][: len(before.steps) - ref.path[0]]
        if ref.direction is COMPENSATION:
            below = [index for index in range(ref.path[0]) if self._undoable[index]]
            places = [ref.path[0], *below[-1:]]
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
        """What the state machine has to know now: an effect, reported or unknown, or an undo."""
        if body is None:
            return then
        index, truth = body.ref.path[0], then.truth[body.ref.path[0]]
        if body.ref.direction is COMPENSATION:
            done = isinstance(event, ev.StepSucceeded) and truth.debt is not None
            if (
                done
                and then.execution is not world.execution
                and body.compensation_round >= truth.debt
            ):
                return told(then, index, truth._replace(debt=None, late=False))
            return then
        report = isinstance(event, ev.StepSucceeded) or getattr(event, "effect", False)
        if report:
            failed = isinstance(event, ev.StepFailed)
            then = then._replace(heard=then.heard | {(body.ref, body.retries, failed)})
        if report or isinstance(event, ev.ClaimVoided):
            late = world.execution.direction is COMPENSATION
            then = told(then, index, truth._replace(debt=truth.sent + 1, late=late))
        return then

    def _sent(self, before: SagaExecution, then: World, ref: StepRef) -> World:
        old, step = before.steps[ref.path[0]], then.execution.steps[ref.path[0]]
        self.require(
            Invariant.SAVED_BEFORE_SENT,
            then.execution.ref(ref.path[0]) == ref,
            "what was sent is not outstanding",
        )
        again = before.ref(ref.path[0]) == ref
        self.require(
            Invariant.NEW_EPOCH,
            again or ref.epoch == old.epoch + 1,
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
            f"an undo was sent while {running} had the claim",
        )
        truth = then.truth[ref.path[0]]
        if not again:
            self._check_order(then, ref.path[0])
            never_claimed = step.error is not None and step.error.type == "NeverClaimed"
            reason = truth.debt is not None or never_claimed
            text = f"step {ref.path[0]} left nothing behind and is undone"
            self.require(Invariant.COMPENSATED_FOR_A_REASON, reason, text)
        return told(
            then, ref.path[0], truth._replace(sent=max(truth.sent, step.compensation_round))
        )

    def _check_order(self, world: World, index: int) -> None:
        for above in range(index + 1, len(self._plan.steps)):
            truth, step = world.truth[above], world.execution.steps[above]
            left_out = step.status is StepStatus.COMPENSATION_FAILED
            owed = self._undoable[above] and truth.debt is not None and not left_out
            self.require(
                Invariant.REVERSE_ORDER, not owed, f"step {index} was undone before step {above}"
            )

    def check(self, world: World, then: World, event: ev.Event | None) -> None:
        before, after = world.execution, then.execution
        self.found.checks += 1
        self.require(Invariant.ONE_ACTIVE_STEP, len(after.active) <= 1, "two steps are outstanding")
        for ref in after.active:
            newest = ref.epoch == after.steps[ref.path[0]].epoch
            self.require(
                Invariant.ONE_ACTIVE_STEP, newest, "an older dispatch of a step is outstanding"
            )
            self.require(
                Invariant.SETTLED_STAYS, not after.settled, "a settled saga has an outstanding step"
            )
        for index, (old, new) in enumerate(zip(before.steps, after.steps, strict=True)):
            self.require(Invariant.NEW_EPOCH, new.epoch >= old.epoch, "an epoch went down")
            now = after.ref(index)
            if new.epoch == old.epoch and now is not None:
                same = now == before.ref(index)
                self.require(Invariant.NEW_EPOCH, same, "two dispatches under one epoch")
        self._check_counts(world, then)
        if before.direction is FORWARD and after.direction is COMPENSATION:
            self._check_turn(then)
        elif after.direction is FORWARD and after.rollback_reason is not None:
            awaited = any(after.steps[ref.path[0]].claim is not None for ref in after.active)
            self.require(
                Invariant.CANCEL, awaited, "nobody has the claim, and the saga does not go back"
            )
        if after.status not in SETTLED:
            self.require(
                Invariant.SETTLES, after.due_at is not None, "nobody will look at it again"
            )
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
                Invariant.CALLERS, stored, "the callers were forgotten before they were told"
            )
        if before.status is not after.status:
            self._check_status(then, before.status, event)

    def _check_counts(self, world: World, then: World) -> None:
        """How often a step is run and sent again, and in how many rounds it is undone."""
        most = self._plan.max_redeliveries
        for index, step in enumerate(then.execution.steps):
            self.require(Invariant.CAPS, step.lost <= most + 1, "a step was run too often")
            sent = step.unclaimed <= 2 * (most + 1)
            self.require(Invariant.CAPS, sent, "a message was sent too often")
            old, new = world.truth[index], then.truth[index]
            late = step.compensation_round <= max(old.sent, old.debt or 0, new.debt or 0)
            self.require(Invariant.LATE_EFFECT, late, "a new round without a late effect")

    def _check_turn(self, world: World) -> None:
        """No way back from a pivot that has taken effect, or may have."""
        pivot = self._plan.pivot
        if pivot is not None and not world.by_hand:
            owed = [truth.debt is not None for truth in world.truth[pivot[0] :]]
            self.require(Invariant.PIVOT, not any(owed), "the saga went back after its pivot")

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
            for step, truth in zip(execution.steps, world.truth, strict=True):
                done = step.status is StepStatus.SUCCEEDED and truth.standing
                skipped = step.status is StepStatus.SKIPPED
                self.require(Invariant.COMPLETED, done or skipped, "COMPLETED, but not all of it")
        elif execution.status is SagaStatus.COMPENSATED:
            self._check_compensated(world)
        elif execution.status is SagaStatus.STUCK and execution.direction is COMPENSATION:
            self._check_stuck(world)

    def _check_compensated(self, world: World) -> None:
        loose = {body.ref.path[0] for body in world.bodies if body.state == "loose"}
        for index, truth in enumerate(world.truth):
            if self._undoable[index]:
                broken = Invariant.LATE_EFFECT if truth.late else Invariant.COMPENSATED
                undone = truth.debt is None
                self.require(broken, undone, f"COMPENSATED, but step {index} was not undone")
                hidden = index in loose
                self.require(
                    Invariant.COMPENSATED,
                    not truth.standing or hidden,
                    f"COMPENSATED, but step {index} stands",
                )
            elif world.execution.steps[index].status in _UNSUCCESSFUL:
                owed = truth.debt is not None and not truth.late and not self._read_only[index]
                self.require(
                    Invariant.COMPENSATED, not owed, f"COMPENSATED, but step {index} may stand"
                )

    def _check_stuck(self, world: World) -> None:
        """Only undos that failed are left out, and steps that have none."""
        steps = world.execution.steps
        failed = any(step.status is StepStatus.COMPENSATION_FAILED for step in steps)
        self.require(Invariant.STUCK, failed or world.execution.unresolved(), "STUCK for nothing")
        for index, step in enumerate(world.execution.steps):
            owed = self._undoable[index] and world.truth[index].debt is not None
            failed = step.status is StepStatus.COMPENSATION_FAILED
            self.require(
                Invariant.STUCK,
                failed or not owed,
                f"STUCK, but the undo of step {index} was not tried",
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
        for index, step in enumerate(execution.steps):
            here, claimed_by = (index,) == execution.current, step.claim and step.claim.token
            key = (head, here, index, step.epoch, claimed_by, key_of_record(step))
            if key not in self._probed:
                self._probed.add(key)
                for epoch in range(1, step.epoch + 1):
                    self._probe_ref(execution, StepRef((index,), FORWARD, epoch), at)
                    self._probe_ref(execution, StepRef((index,), COMPENSATION, epoch), at)

    def _probe_ref(self, execution: SagaExecution, ref: StepRef, at: float) -> None:
        newest = execution.ref(ref.path[0]) == ref
        events: list[ev.Event] = [
            ev.StepFailed(at, ref, BOOM, "stranger"),
            ev.StepFailed(at, ref, BOOM, retries=9),
            ev.StepReleased(at, ref, "stranger", 0, at),
            ev.ClaimVoided(at, ref, "stranger"),
            ev.ClaimVoided(at, ref, instance="elsewhere"),
            ev.StepRevoked(at, ref, BOOM, "elsewhere"),
            ev.TaskUnknown(at, ref),
        ]
        if ref.direction is COMPENSATION:
            events.append(ev.StepSucceeded(at, ref, "stranger"))
        if newest and execution.steps[ref.path[0]].claim is None:
            events = [event for event in events if isinstance(event, ev.ClaimVoided)]
        for event in events:
            invariant = Invariant.CLAIM_FOR_REPORT
            if newest and isinstance(event, (ev.ClaimVoided, ev.StepRevoked)):
                invariant = Invariant.CLAIM_KEPT
            text = f"a stale {type(event).__name__} did something"
            self._same(execution, event, invariant, text)
        step = execution.steps[ref.path[0]]
        if not newest or step.claim is not None:
            retries = step.retries if newest else 9
            taken = claimed(execution, ref, Claim("stranger", "w", retries, at))
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
    index = execution.current
    not_before = None if index is None else execution.steps[index].not_before
    return later + max(execution.updated_at, not_before or 0.0 if later > 1 else 0.0)
