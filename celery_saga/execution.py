"""One run of a saga, as immutable data; :mod:`celery_saga.decide` makes a new one of an old one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from celery_saga.context import SagaContext
from celery_saga.partial import PartialSteps
from celery_saga.plan import Plan
from celery_saga.slots import Direction, Slot
from celery_saga.values import Values, values_of

T = TypeVar("T")

__all__ = [
    "SETTLED",
    "TERMINAL",
    "Claim",
    "Direction",
    "Failure",
    "Note",
    "SagaExecution",
    "SagaStatus",
    "SagaStepExecution",
    "Slot",
    "StepStatus",
    "evolved",
]


class SagaStatus(str, Enum):
    """Where a saga is. The status is never better than what the engine knows."""

    CREATED = "CREATED"  #: saved, its first step is not sent yet
    RUNNING = "RUNNING"  #: on its way forward
    PAUSED = "PAUSED"  #: stopped between two steps by an operator
    COMPENSATING = "COMPENSATING"  #: on its way back
    COMPLETED = "COMPLETED"  #: every step's effect stands
    COMPENSATED = "COMPENSATED"  #: every known or possible effect was undone
    STUCK = "STUCK"  #: a person is needed; never expires

    __str__ = str.__str__


class StepStatus(str, Enum):
    """Where one step is."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"  #: sent, or being run
    WAITING = "WAITING"  #: waits for the engine's next attempt
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"  #: it may have happened
    COMPENSATING = "COMPENSATING"
    COMPENSATED = "COMPENSATED"
    COMPENSATION_FAILED = "COMPENSATION_FAILED"
    SKIPPED = "SKIPPED"

    __str__ = str.__str__


#: Nothing happens to these by itself any more (a late effect or an operator may reopen them).
TERMINAL = frozenset({SagaStatus.COMPLETED, SagaStatus.COMPENSATED})
#: Those that ``get()`` no longer waits for.
SETTLED = TERMINAL | {SagaStatus.STUCK}


@dataclass(frozen=True)
class Claim:
    """The right to run one slot, taken before the body starts.

    Args:
        token: unique to one delivery in one process.
        instance: the boot of the worker that holds it.
        retries: Celery's retry count of the claiming message; a higher one takes over.
        at: store time of the claim, seconds since the epoch.
    """

    token: str
    instance: str
    retries: int = 0
    at: float = 0.0


@dataclass(frozen=True)
class Failure:
    """An error as it is recorded: names and text, nothing executable."""

    type: str
    message: str
    step: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True)
class SagaStepExecution:
    """What is known of one step of a run.

    Args:
        name: the step's name.
        status: see :class:`StepStatus`.
        outstanding: direction of the task that is sent and not over yet.
        epoch: of the newest dispatch, over both directions; 0 before the first.
        claim: who runs it.
        effect: an effect was reported, or may exist, and is not undone.
        retries: the highest Celery retry count seen; a message that is sent again carries it.
        attempts: failed attempts in the engine's own retries, this direction.
        lost: attempts whose outcome stayed unknown, this direction.
        round: how often the forward task began anew after its undo ran.
        undo_round: how often the undo began anew after a late effect.
        reopened: a late effect arrived while the undo was on its way.
        reported: tokens of the effects that were counted; a second report says nothing new.
        expected_at: when the newest message could be taken at the earliest, store time.
        republished: how often that message was sent again.
        not_before: no dispatch before this store time (the engine's own delays).
        unknown_since: since when workers say that they do not know the task.
        error: why the forward task failed.
        undo_error: why the undo failed.
        started_at: first dispatch, store time.
        ended_at: end of the forward task, store time.
    """

    name: str
    status: StepStatus = StepStatus.PENDING
    outstanding: Direction | None = None
    epoch: int = 0
    claim: Claim | None = None
    effect: bool = False
    retries: int = 0
    attempts: int = 0
    lost: int = 0
    round: int = 0
    undo_round: int = 0
    reopened: bool = False
    reported: tuple[str, ...] = ()
    expected_at: float | None = None
    republished: int = 0
    not_before: float | None = None
    unknown_since: float | None = None
    error: Failure | None = None
    undo_error: Failure | None = None
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def undoable(self) -> bool:
        """Whether its effect stands, and its undo has not failed for good."""
        return self.effect and self.status is not StepStatus.COMPENSATION_FAILED


@dataclass(frozen=True)
class Note:
    """A line of the history: who did what, when."""

    at: float
    what: str
    by: str = ""
    detail: str = ""


@dataclass(frozen=True)
class SagaExecution:
    """One run of a saga.

    Args:
        saga_id: its id, also the Celery result id of the whole run.
        plan: the frozen plan.
        values: the context's data; :attr:`context` gives it as a :class:`SagaContext`.
        steps: one record a step, in the plan's order.
        status: see :class:`SagaStatus`.
        direction: forward, or backward once the unwind began.
        position: index of the step that is due, running or being undone.
        reach: no step above this index has an effect that an undo could take back; ``None``: any.
        revision: raised by every saved change; a save names the one that it read.
        unwind: why the saga is to go back as soon as no forward claim is alive.
        error: why it failed.
        deadline: store time at which the way forward is given up, unless the pivot was sent.
        due_at: when the sweep looks next, store time; ``None``: never.
        wants_result: its end is to be stored as the Celery result of its id.
        result_pending: it is settled, and that is not stored, or its callers are not told.
        origin: what its callers want to be told, as plain JSON (:mod:`celery_saga.announce`).
        history: what operators and exceptional events did.
        created_at: store time of the start.
        updated_at: store time of the last transition.
    """

    saga_id: str
    plan: Plan
    values: Mapping[str, Any] = field(default_factory=dict)
    steps: Sequence[SagaStepExecution] = ()
    status: SagaStatus = SagaStatus.CREATED
    direction: Direction = Direction.FORWARD
    position: int = 0
    reach: int | None = None
    revision: int = 0
    unwind: Failure | None = None
    error: Failure | None = None
    deadline: float | None = None
    due_at: float | None = None
    wants_result: bool = False
    result_pending: bool = False
    origin: Mapping[str, Any] | None = None
    history: tuple[Note, ...] = ()
    created_at: float = 0.0
    updated_at: float = 0.0

    @classmethod
    def create(
        cls,
        saga_id: str,
        plan: Plan,
        values: Mapping[str, Any],
        *,
        at: float,
        deadline: float | None = None,
    ) -> SagaExecution:
        """A new run; nothing of it is sent or saved yet."""
        steps = tuple(SagaStepExecution(step.name) for step in plan.steps)
        new = cls(saga_id, plan, Values(values), steps, reach=-1, deadline=deadline)
        return evolved(new, created_at=at, updated_at=at)

    @property
    def name(self) -> str:
        """The saga's name."""
        return self.plan.saga

    @property
    def context(self) -> SagaContext:
        """A copy of the context as it is now."""
        context = SagaContext()
        context.update(self.values)
        return context

    @property
    def settled(self) -> bool:
        """Whether waiters are answered: completed, compensated or stuck."""
        return self.status in SETTLED

    def slot(self, index: int) -> Slot | None:
        """The slot of step ``index`` if its task is sent and not over yet."""
        step = self.steps[index]
        return Slot(index, step.outstanding, step.epoch) if step.outstanding else None

    def at_step(self, slot: Slot) -> SagaStepExecution | None:
        """The step that ``slot`` names, if this execution has it."""
        return self.steps[slot.step] if slot.step < len(self.steps) else None

    def with_step(self, index: int, **changes: Any) -> SagaExecution:
        """This execution with some fields of one step replaced."""
        step, steps, reach = evolved(self.steps[index], **changes), self.steps, self.reach
        if reach is not None and index > reach and step.undoable:
            reach = index
        if isinstance(steps, PartialSteps):
            return evolved(self, steps=steps.replacing(index, step), reach=reach)
        return evolved(self, steps=(*steps[:index], step, *steps[index + 1 :]), reach=reach)

    def with_values(self, update: Mapping[str, Any], remove: Collection[str] = ()) -> SagaExecution:
        """This execution with keys of its context set and deleted."""
        if not update and not remove:
            return self
        return evolved(self, values=values_of(self.values).changed(update, remove))

    def idempotency_key(self, index: int, direction: Direction) -> str:
        """``saga/step/direction/round``: equal over retries, redeliveries and epochs."""
        step = self.steps[index]
        turn = step.round if direction is Direction.FORWARD else step.undo_round
        return f"{self.saga_id}/{step.name}/{direction}/{turn}"


def evolved(record: T, **changes: Any) -> T:
    """As :func:`dataclasses.replace`, without running the constructor (a third of its time)."""
    new = object.__new__(type(record))
    new.__dict__.update(record.__dict__)
    new.__dict__.update(changes)
    return new
