"""What has taken effect in the simulated world: written by task bodies, and by nobody else."""

from __future__ import annotations

from collections.abc import Iterator
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
from celery_saga.core.plan import Plan
from tests.simulator.network import Message


class Broken(BaseException):
    """A promise was broken; the text says which, without details that differ between runs.

    The engine goes on after errors of all kinds, but not after this one.
    """


@dataclass(eq=False)
class Body:
    """A task's function that was begun by a delivery with a claim.

    Args:
        key: the idempotency key that it was given.
        happened: whether it did what it is for.
        with_claim: whether it had the claim at that moment.
        ending: whether it is about to report.
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
    #: Keys of the undos that were carried out; a second one of the same key does nothing.
    undone: set[str] = field(default_factory=set)
    #: How many bodies told of an effect when their claim was void already.
    late: int = 0


class Ledger:
    """The truth about one saga, and the promises that its checkpoints have to keep.

    Args:
        plan: the saga's.
    """

    def __init__(self, plan: Plan) -> None:
        self._undoable = [step.compensation is not None for step in plan.steps]
        self._read_only = [step.read_only for step in plan.steps]
        self._pivot = len(plan.steps) if plan.pivot is None else plan.pivot
        self.steps = [StepTruth() for _ in plan.steps]
        self.seen: SagaExecution | None = None
        self.checks = 0

    def happens(self, body: Body, now: SagaExecution) -> None:
        """A body does what it is for; ``now`` is the saga's checkpoint at that moment."""
        claim = now.steps[body.ref.step].claim
        body.happened = True
        body.with_claim = claim is not None and claim.token == body.claim.token
        truth = self.steps[body.ref.step]
        if body.ref.direction is Direction.FORWARD:
            truth.standing = body
        elif body.key not in truth.undone:
            truth.undone.add(body.key)
            truth.standing = None
            self._check_order(body.ref.step, now)

    def _check_order(self, index: int, now: SagaExecution) -> None:
        """Effects that came after their claim was void may be undone out of order."""
        left = (StepStatus.COMPENSATION_FAILED, StepStatus.SKIPPED)
        for above in range(index + 1, len(self.steps)):
            body = self.steps[above].standing
            late = body is None or not body.with_claim or now.steps[above].status in left
            self._require(late or not self._undoable[above], "an undo ran before a later step's")
            self._require(late or above < self._pivot, "an undo ran after the pivot")

    def told(self, body: Body, before: SagaExecution, effect: bool) -> None:
        """A body's report has changed ``before``; ``effect`` is whether it told of one."""
        body.heard = True
        if body.in_time is None:
            claim = before.steps[body.ref.step].claim
            body.in_time = claim is not None and claim.token == body.claim.token
            if effect and not body.in_time:
                self.steps[body.ref.step].late += 1

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
        self._check_form(after)
        if before is not None:
            self._check_change(before, after, by_hand)
        if before is None or before.status is not after.status:
            self.check_status(after)

    def _check_form(self, after: SagaExecution) -> None:
        outstanding = [i for i, step in enumerate(after.steps) if step.outstanding is not None]
        self._require(len(outstanding) <= 1, "two steps are outstanding")
        self._require(outstanding in ([], [after.position]), "not the position is outstanding")
        if after.status in SETTLED:
            self._require(not outstanding, "a settled saga has an outstanding step")
            looked_at = after.due_at is not None
            self._require(looked_at is after.result_pending, "its result is not looked after")
        else:
            self._require(after.due_at is not None, "nobody will look at it again")
        for step, truth in zip(after.steps, self.steps, strict=True):
            late = step.undo_round <= truth.late
            self._require(late, "an undo began a new round without a late effect")

    def _check_change(self, before: SagaExecution, after: SagaExecution, by_hand: bool) -> None:
        self._require(after.revision > before.revision, "the revision did not rise")
        for old, new in zip(before.steps, after.steps, strict=True):
            self._require(new.epoch >= old.epoch, "an epoch went down")
            same = old.outstanding is None or new.outstanding in (None, old.outstanding)
            self._require(same or new.epoch > old.epoch, "a new dispatch has an old epoch")
            if new.epoch > old.epoch and new.outstanding is not None:
                forward = new.outstanding is Direction.FORWARD
                self._require(not (forward and before.unwind), "a step was sent after the cancel")
                paused = before.status is after.status is SagaStatus.PAUSED
                self._require(not paused, "a paused saga sent a step")
        if before.status is after.status or by_hand:
            return
        if before.status is SagaStatus.STUCK:
            self._require(False, "a stuck saga went on by itself")
        if before.status in TERMINAL:
            told = [step.reported for step in before.steps] != [s.reported for s in after.steps]
            back = before.status is SagaStatus.COMPENSATED and told
            self._require(back, "a terminal saga went on without a late effect")

    def check_status(self, execution: SagaExecution) -> None:
        """Hold the saga's status against the truth."""
        if any(note.what == "resolve" for note in execution.history):
            return
        if execution.status is SagaStatus.COMPLETED:
            self._require(execution.unwind is None, "COMPLETED after a cancel")
            for step, truth in zip(execution.steps, self.steps, strict=True):
                there = step.status is StepStatus.SUCCEEDED and truth.standing is not None
                skipped = step.status is StepStatus.SKIPPED
                self._require(there or skipped, "COMPLETED, and an effect is not there")
        elif execution.status is SagaStatus.COMPENSATED:
            for index, step in self._not_undone(execution):
                skipped = step is StepStatus.SKIPPED
                self._require(skipped, "COMPENSATED, and an effect is there", index)
        elif execution.status is SagaStatus.STUCK and execution.direction is Direction.BACKWARD:
            for index, step in self._not_undone(execution):
                tried = step is StepStatus.COMPENSATION_FAILED or not self._undoable[index]
                self._require(tried, "STUCK, and an undo was not tried", index)

    def _not_undone(self, execution: SagaExecution) -> Iterator[tuple[int, StepStatus]]:
        """Steps whose effect is there, and which the engine could know of.

        One that succeeded and has no undo needs none.

        It cannot know of an effect that came when the claim was void already, from a body that
        never told.
        """
        for index, truth in enumerate(self.steps):
            body = truth.standing
            status = execution.steps[index].status
            known = body is not None and (body.with_claim or (body.heard and self._undoable[index]))
            needs_none = status is StepStatus.SUCCEEDED or self._read_only[index]
            if known and (self._undoable[index] or not needs_none):
                yield index, status

    def _require(self, condition: object, promise: str, step: int | None = None) -> None:
        self.checks += 1
        if not condition:
            raise Broken(promise if step is None else f"{promise} (step {step})")
