"""What has taken effect in the simulated world: written by task bodies, and by nothing else."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from celery_saga.core.execution import (
    SETTLED,
    TERMINAL,
    Claim,
    Direction,
    SagaExecution,
    SagaStatus,
    StepRef,
    StepStatus,
)
from celery_saga.core.plan import Path, Plan, PlanStep
from tests.core.tree_promises import may_be_together
from tests.invariants import Invariant
from tests.simulator.network import Message


class Broken(BaseException):
    """An invariant was broken; the text says how, without details that differ between runs.

    The engine continues after errors of all kinds, but not after this one.
    """

    def __init__(self, invariant: Invariant, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


@dataclass(eq=False)
class Body:
    """A task's function that was begun by a delivery with a claim.

    Args:
        key: the idempotency key that it was given.
        happened: whether it did what it is for.
        with_claim: whether it had the claim at that moment.
        ending: whether it is about to report.
        retried: whether Celery sends its task again, by the body's own wish.
        heard: whether its report reached the store.
        in_time: whether it had the claim then.
    """

    message: Message
    claim: Claim
    execution: SagaExecution
    key: str
    happened: bool = False
    with_claim: bool = False
    ending: bool = False
    retried: bool = False
    heard: bool = False
    in_time: bool | None = None

    @property
    def ref(self) -> StepRef:
        """What it runs."""
        return self.message.ref


@dataclass
class StepTruth:
    """What is the case with one step."""

    #: Whose effect is there.
    standing: Body | None = None
    #: Keys of the compensations that were carried out; a second one of the same key does nothing.
    compensated: set[str] = field(default_factory=set)
    #: How many bodies reported an effect when their claim was void already.
    late: int = 0
    #: Bodies of the step itself that were begun since an operator had a hand in it.
    begun: list[Body] = field(default_factory=list)
    #: Tokens of claims on the step itself, and of those the ones that were released with the
    #: word that nothing was left behind.
    claims: set[str] = field(default_factory=set)
    clean: set[str] = field(default_factory=set)
    #: Which round a key stood for, of either direction, and the other way round.
    rounds: dict[str, tuple[Direction, int]] = field(default_factory=dict)
    keys: dict[tuple[Direction, int], str] = field(default_factory=dict)


class Ledger:
    """The truth about one saga, and the promises that its checkpoints have to keep.

    Args:
        plan: the saga's.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._pivot = (len(plan.steps),) if plan.pivot is None else plan.pivot
        #: Of the steps and conditions of which something was heard.
        self.steps: defaultdict[Path, StepTruth] = defaultdict(StepTruth)
        self.seen: SagaExecution | None = None
        #: Statuses in which it was settled, in a checkpoint that was saved.
        self.ends: set[SagaStatus] = set()
        #: What was looked at, and how often.
        self.checks: Counter[Invariant] = Counter()

    def created(
        self, before: SagaExecution | None, answer: tuple[SagaExecution, bool], same: bool
    ) -> None:
        """The store has answered to a start.

        Args:
            before: what had the id.
            same: whether it is that start which made it, repeated.
        """
        execution, created = answer
        if created and execution.settled:  # there was nothing to do
            self.ends.add(execution.status)
        taken = before is not None and not same
        text = "a second start made a second saga"
        self._require(Invariant.ONE_SAGA, not (taken and created), text)
        self._require(Invariant.ONE_SAGA, before is None or execution is before, text)

    def claimed(self, ref: StepRef, token: str) -> None:
        """The store has given a claim."""
        if ref.direction is Direction.FORWARD:
            self.steps[ref.path].claims.add(token)

    def sends(self, message: Message, now: SagaExecution | None) -> None:
        """A message goes out; ``now`` is the saga's checkpoint at that moment."""
        ref = message.ref
        saved = now is not None and now.steps[ref.path].epoch >= ref.epoch
        self._require(Invariant.SAVED_BEFORE_SENT, saved, "a message went out before its save")

    def publishes(self, status: SagaStatus) -> None:
        """A result is stored, and callers are notified."""
        self._require(Invariant.RESULT, status in self.ends, "a result came before its save")

    def begins(self, body: Body, now: SagaExecution) -> None:
        """A body is about to run; ``now`` is the saga's checkpoint at that moment."""
        ref, truth = body.ref, self.steps[body.ref.path]
        held = now.steps[ref.path].claim
        has_claim = held is not None and held.token == body.claim.token
        newest = now.ref(ref.path) == ref
        self._require(Invariant.CLAIM_BEFORE_BODY, has_claim and newest, "a body has no claim")
        self._check_key(body, now)
        if ref.direction is Direction.FORWARD:
            self._check_rerun(ref.path)
            truth.begun.append(body)
            return
        error = now.steps[ref.path].error
        never_claimed = error is not None and error.type == "NeverClaimed"
        possible = never_claimed or truth.claims - truth.clean
        text = "a step that left nothing behind is compensated"
        self._require(Invariant.COMPENSATED_FOR_A_REASON, possible, text)

    def _check_key(self, body: Body, now: SagaExecution) -> None:
        truth, step = self.steps[body.ref.path], now.steps[body.ref.path]
        forward = body.ref.direction is Direction.FORWARD
        turn = body.ref.direction, step.round if forward else step.compensation_round
        same = truth.keys.setdefault(turn, body.key) == body.key
        self._require(Invariant.IDEMPOTENCY_KEY, same, "a round has two keys")
        only = truth.rounds.setdefault(body.key, turn) == turn
        self._require(Invariant.IDEMPOTENCY_KEY, only, "two rounds have one key")

    def _undoable(self, path: Path) -> bool:
        return self._plan.step(path).compensation is not None

    def _check_rerun(self, path: Path) -> None:
        """A step that is promised to run at most once ran before, and its outcome is not known."""
        step = self._plan.step(path)
        if not (step.action.rerun or step.read_only) and path < self._pivot:
            known = all(body.retried or body.in_time for body in self.steps[path].begun)
            self._require(Invariant.AT_MOST_ONCE, known, "an early-ack step was run again")

    def happens(self, body: Body, now: SagaExecution) -> None:
        """A body does what it is for; ``now`` is the saga's checkpoint at that moment."""
        claim = now.steps[body.ref.path].claim
        body.happened = True
        body.with_claim = claim is not None and claim.token == body.claim.token
        truth = self.steps[body.ref.path]
        if body.ref.direction is Direction.FORWARD:
            truth.standing = body
        elif body.key not in truth.compensated:
            truth.compensated.add(body.key)
            truth.standing = None
            self._check_order(body.ref.path, now)

    def _check_order(self, path: Path, now: SagaExecution) -> None:
        """Effects that came after their claim was void may be compensated out of order."""
        left = (StepStatus.COMPENSATION_FAILED, StepStatus.SKIPPED)
        for other, truth in list(self.steps.items()):
            body = truth.standing
            late = body is None or not body.with_claim or now.steps[other].status in left
            later = self._plan.ends_before(path, other)
            if later and not self._plan.independent(path, other):
                text = "a compensation ran before a later step's"
                self._require(Invariant.REVERSE_ORDER, late or not self._undoable(other), text)
            if later:
                text = "a compensation ran after the pivot"
                self._require(Invariant.PIVOT, late or other < self._pivot, text)

    def reported(
        self, body: Body, before: SagaExecution, after: SagaExecution, effect: bool
    ) -> None:
        """A body's report has changed ``before``; ``effect`` is whether it reported one."""
        body.heard = True
        truth, claim = self.steps[body.ref.path], before.steps[body.ref.path].claim
        if body.in_time is None:
            body.in_time = claim is not None and claim.token == body.claim.token
            if effect and not body.in_time:
                truth.late += 1
            if body.in_time and not effect and body.ref.direction is Direction.FORWARD:
                truth.clean.add(body.claim.token)
        others = claim is not None and claim.token != body.claim.token
        kept = after.steps[body.ref.path].claim == claim
        text = "a report ended the claim of another"
        self._require(Invariant.CLAIM_FOR_REPORT, kept or not others, text)

    def see(self, after: SagaExecution, by_hand: bool) -> None:
        """Hold a checkpoint against the one before it, and against the truth.

        Args:
            by_hand: whether an operator had a hand in the change.

        Raises:
            Broken: it cannot be right.
        """
        before, self.seen = self.seen, after
        if before is after:
            return
        if after.settled:
            self.ends.add(after.status)
        if by_hand:
            for truth in self.steps.values():
                truth.begun.clear()
        self._check_form(after)
        if before is not None:
            self._check_change(before, after, by_hand)
        if before is None or before.status is not after.status:
            self.check_status(after)

    def _check_form(self, after: SagaExecution) -> None:
        for one, other in itertools.combinations(after.active, 2):
            apart = may_be_together(self._plan, one, other)
            self._require(Invariant.ONE_ACTIVE_STEP, apart, "two steps are outstanding")
        for ref in after.active:
            self._require(
                Invariant.ONE_ACTIVE_STEP,
                ref.epoch == after.steps[ref.path].epoch,
                "an older dispatch of a step is outstanding",
            )
        if after.status in SETTLED:
            self._require(
                Invariant.SETTLED_STAYS, not after.active, "a settled saga has an outstanding step"
            )
            looked_at = after.due_at is not None
            self._require(
                Invariant.RESULT,
                looked_at is after.result_pending,
                "its result is not looked after",
            )
        else:
            self._require(Invariant.SETTLES, after.due_at is not None, "it is not checked again")
        most = self._plan.max_redeliveries
        for path, step in after.steps.items():
            truth = self.steps[path]
            self._require(Invariant.CAPS, step.lost <= most + 1, "a step was run too often")
            sent = step.unclaimed <= 2 * (most + 1)
            self._require(Invariant.CAPS, sent, "a message was sent too often")
            late = step.compensation_round <= truth.late
            self._require(
                Invariant.LATE_EFFECT,
                late,
                "a compensation began a new round without a late effect",
            )

    def _check_change(self, before: SagaExecution, after: SagaExecution, by_hand: bool) -> None:
        self._require(
            Invariant.REVISION, after.revision > before.revision, "the revision did not rise"
        )
        for path, new in after.steps.items():
            old = before.steps[path]
            self._require(Invariant.NEW_EPOCH, new.epoch >= old.epoch, "an epoch went down")
            was, now = before.ref(path), after.ref(path)
            same = was is None or now is None or was.direction is now.direction
            self._require(
                Invariant.NEW_EPOCH,
                same or new.epoch > old.epoch,
                "a new dispatch has an old epoch",
            )
            if new.epoch > old.epoch and now is not None:
                forward = now.direction is Direction.FORWARD
                self._require(
                    Invariant.CANCEL,
                    not (forward and before.rollback_reason),
                    "a step was sent after the cancel",
                )
                paused = before.status is after.status is SagaStatus.PAUSED
                self._require(Invariant.PAUSE, not paused, "a paused saga sent a step")
        if before.status is after.status or by_hand:
            return
        if before.status is SagaStatus.STUCK:
            self._require(Invariant.SETTLED_STAYS, False, "a stuck saga continued by itself")
        if before.status in TERMINAL:
            reported = any(
                step.effect_tokens != before.steps[path].effect_tokens
                for path, step in after.steps.items()
            )
            back = before.status is SagaStatus.COMPENSATED and reported
            self._require(
                Invariant.SETTLED_STAYS, back, "a terminal saga continued without a late effect"
            )

    def check_status(self, execution: SagaExecution) -> None:
        """Hold the saga's status against the truth."""
        if execution.resolved_at is not None:
            return
        if execution.status is SagaStatus.COMPLETED:
            self._require(
                Invariant.COMPLETED, execution.rollback_reason is None, "COMPLETED after a cancel"
            )
            for path in execution.steps.paths():
                around = (execution.steps.known(path[:depth]) for depth in range(1, len(path) + 1))
                skipped = any(each and each.status is StepStatus.SKIPPED for each in around)
                there = execution.steps[path].status is StepStatus.SUCCEEDED
                if self._has_effect(path):
                    there = there and self.steps[path].standing is not None
                self._require(
                    Invariant.COMPLETED, there or skipped, "COMPLETED, and an effect is not there"
                )
        elif execution.status is SagaStatus.COMPENSATED:
            for path, truth in list(self.steps.items()):
                step, body = execution.steps[path], truth.standing
                late = body is not None and not body.with_claim
                invariant = Invariant.LATE_EFFECT if late else Invariant.COMPENSATED
                compensated = step.status is StepStatus.SKIPPED or not self._exists(execution, path)
                self._require(invariant, compensated, "COMPENSATED, and an effect is there", path)
        elif execution.status is SagaStatus.STUCK and execution.direction is Direction.COMPENSATION:
            for path in list(self.steps):
                failed = execution.steps[path].status is StepStatus.COMPENSATION_FAILED
                tried = failed or not self._exists(execution, path) or not self._undoable(path)
                self._require(
                    Invariant.STUCK, tried, "STUCK, and a compensation was not tried", path
                )

    def _has_effect(self, path: Path) -> bool:
        node = self._plan.at(path)
        return isinstance(node, PlanStep)

    def _exists(self, execution: SagaExecution, path: Path) -> bool:
        """Whether a step's effect is there, and should not be, and the engine could know of it.

        One that succeeded and has no compensation needs none.

        It cannot know of an effect that came when the claim was void already, from a body that
        never reported.
        """
        body = self.steps[path].standing
        if body is None or not self._has_effect(path):
            return False
        if not (body.with_claim or (body.heard and self._undoable(path))):
            return False
        succeeded = execution.steps[path].status is StepStatus.SUCCEEDED
        return self._undoable(path) or not (succeeded or self._plan.step(path).read_only)

    def _require(
        self, invariant: Invariant, condition: object, text: str, step: Path | None = None
    ) -> None:
        self.checks[invariant] += 1
        if not condition:
            raise Broken(invariant, text if step is None else f"{text} (step {step})")
