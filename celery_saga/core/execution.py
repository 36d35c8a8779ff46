"""One run of a saga, as immutable data; :mod:`celery_saga.core.decide` makes a new one of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from celery_saga.core.checkpoint import (
    head_from_dict,
    head_to_dict,
    record_from,
    record_to_dict,
    step_from_dict,
)
from celery_saga.core.context.data import Values, values_of
from celery_saga.core.context.lazy import PartialSteps
from celery_saga.core.context.saga_context import SagaContext
from celery_saga.core.plan import Plan
from celery_saga.core.reprs import execution_lines
from celery_saga.core.state import (
    SETTLED,
    TERMINAL,
    Claim,
    Direction,
    Failure,
    Note,
    OperatorRequest,
    SagaStatus,
    SagaStepExecution,
    StepRef,
    StepStatus,
)

__all__ = [
    "SETTLED",
    "TERMINAL",
    "Claim",
    "Direction",
    "Failure",
    "Note",
    "OperatorRequest",
    "SagaExecution",
    "SagaStatus",
    "SagaStepExecution",
    "StepRef",
    "StepStatus",
    "claimed",
    "from_parts",
]


@dataclass(frozen=True)
class SagaExecution:
    """One run of a saga.

    Args:
        saga_id: its id, also the Celery result id of the whole run.
        plan: the frozen plan.
        values: the context's data; :attr:`context` gives it as a :class:`SagaContext`.
        steps: one record a step, in the plan's order.
        status: see :class:`SagaStatus`.
        direction: forward, or compensation once the rollback began.
        active: the dispatches that are sent and not over yet; without branches one at most.
        journal: paths of the steps with a compensation whose effects stand or may stand, in the
            order in which these steps end; the rollback takes them from its end.
        revision: raised by every saved change; a save names the one that it read.
        rollback_reason: why the saga is rolled back as soon as no forward claim is alive.
        error: why it failed.
        deadline: store time at which the way forward is given up, unless the pivot was sent.
        due_at: when the sweep looks next, store time; ``None``: never.
        wants_result: its end is to be stored as the Celery result of its id.
        result_pending: it is settled, and that is not stored, or its callers are not told.
        callbacks: the links of the call and the callbacks of the definition that its end is to
            call, as JSON (:mod:`celery_saga.messaging.callbacks`).
        headers: of the message that started it, all but Celery's own, as plain JSON; they are on
            every message of it (:mod:`celery_saga.messaging.headers`).
        history: what operators and exceptional events did; it is for people, and only appended to.
        stuck_count: how often it has got stuck.
        last_requests: of operators, the newest last; no more than a few.
        resolved_at: store time at which an operator said last how it has ended.
        root_id: of the Celery task in which it was started; empty: it was started outside of tasks.
        parent_id: id of that task.
        run_id: drawn where its saga id was given, so that messages and reports of an earlier
            saga of that id, which was deleted or expired, are not taken for its own.
        opened_with: digest of the context that it began with, where its id was given: it tells
            whether a second start of the id is the same one.
        created_at: store time of the start.
        updated_at: store time of the last transition.
    """

    saga_id: str
    plan: Plan
    values: Mapping[str, Any] = field(default_factory=dict)
    steps: Sequence[SagaStepExecution] = ()
    status: SagaStatus = SagaStatus.CREATED
    direction: Direction = Direction.FORWARD
    active: tuple[StepRef, ...] = ()
    journal: tuple[tuple[int, ...], ...] = ()
    revision: int = 0
    rollback_reason: Failure | None = None
    error: Failure | None = None
    deadline: float | None = None
    due_at: float | None = None
    wants_result: bool = False
    result_pending: bool = False
    callbacks: Mapping[str, Any] | None = field(default=None, repr=False)  # arguments of others
    headers: Mapping[str, Any] | None = field(default=None, repr=False)  # a token may be in them
    history: tuple[Note, ...] = ()
    stuck_count: int = 0
    last_requests: tuple[OperatorRequest, ...] = ()
    resolved_at: float | None = None
    root_id: str = ""
    parent_id: str = ""
    run_id: str = ""
    opened_with: str = ""
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
        steps = tuple([SagaStepExecution(step.name) for step in plan.steps])
        new = cls(saga_id, plan, Values(values), steps, deadline=deadline)
        return replace(new, created_at=at, updated_at=at)

    def __repr__(self) -> str:
        return "\n".join(execution_lines(self))

    @property
    def uuid(self) -> uuid.UUID | str:
        """The saga's id, as a UUID where it is one: what the Minos framework's code asks for."""
        try:
            found = uuid.UUID(self.saga_id)
        except ValueError:
            return self.saga_id
        return found if str(found) == self.saga_id else self.saga_id

    @property
    def raw(self) -> dict[str, Any]:
        """All of the execution as plain data that any JSON encoder takes.

        ::

            {"version": 1, "saga_id": "...", "plan": {...}, "context": {"order_id": 7, ...},
             "steps": [{"name": "charge", "status": "SUCCEEDED", ...}, ...], "history": [...],
             "revision": 9, "status": "COMPLETED", "created_at": 1735689600.0, ...}

        Values that JSON lacks stand in it as kombu writes them. :meth:`from_raw` makes an equal
        execution of it.
        """
        context = values_of(self.values).texts()
        return {
            "saga_id": self.saga_id,
            "plan": json.loads(self.plan.text),
            "context": {key: json.loads(text) for key, text in context.items()},
            "steps": [record_to_dict(step) for step in self.steps],
            "history": [record_to_dict(note) for note in self.history],
            "revision": self.revision,
            **head_to_dict(self),
        }

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> SagaExecution:
        """The execution that :attr:`raw` was read of; it is not saved anywhere.

        Raises:
            UnsupportedCheckpoint: a newer version of this library wrote it.
            ValueError: it is not the export of an execution; the cause is ``__cause__``.
        """
        try:
            head = dict(raw)
            saga_id, plan, context = (head.pop(key) for key in ("saga_id", "plan", "context"))
            fields = head_from_dict(saga_id, {**head, "version": head["version"]})
            fields["steps"] = tuple(step_from_dict(step) for step in fields["steps"])
            fields["history"] = tuple(Note(**note) for note in fields["history"])
            values = Values(texts={key: json.dumps(value) for key, value in context.items()})
            dict(values)  # what cannot be read is found here
            found = cls(saga_id, Plan.from_text(json.dumps(plan)), values, **fields)
            _check_whole(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"SagaExecution.from_raw: expected what SagaExecution.raw gave, found something "
                f"else ({type(error).__name__}: {error})"
            ) from error
        return found

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

    def ref(self, index: int) -> StepRef | None:
        """The ref of step ``index`` if its task is sent and not over yet."""
        for ref in self.active:
            if ref.path == (index,):
                return ref
        return None

    @property
    def first_active(self) -> StepRef | None:
        """The dispatch that is on its way, if one is; without branches there is no second one."""
        return self.active[0] if self.active else None

    def activity(self, index: int) -> str:
        """What a step's task does now: ``"queued"``, ``"running"``, or nothing (empty)."""
        if self.ref(index) is None:
            return ""
        return "queued" if self.steps[index].claim is None else "running"

    @property
    def next_compensation(self) -> int | None:
        """Index of the step that is compensated next; ``None``: none is left.

        The last one on the journal, but for those whose compensation has failed for good: they keep
        their places, for an operator who has them tried again.
        """
        for (index,) in reversed(self.journal):
            if self.steps[index].status is not StepStatus.COMPENSATION_FAILED:
                return index
        return None

    @property
    def current(self) -> int | None:
        """Index of the step at which the run is: sent, waiting, or the next one to be sent.

        ``None``: there is none left in its direction.
        """
        if self.active:
            return self.active[0].step
        if self.direction is Direction.COMPENSATION:
            return self.next_compensation
        for index, step in enumerate(self.steps):
            if step.status not in (StepStatus.SUCCEEDED, StepStatus.SKIPPED):
                return index
        return None

    @property
    def root(self) -> str:
        """The root of its tasks' ids, as Celery has it; a saga that nobody's task started has its
        first step's as Celery's own root tasks have theirs."""
        return self.root_id or StepRef((0,), Direction.FORWARD, 1).task_id(self.saga_id)

    def at_step(self, ref: StepRef) -> SagaStepExecution | None:
        """The step that ``ref`` names, if this execution has it."""
        return self.steps[ref.step] if ref.step < len(self.steps) else None

    def with_step(self, index: int, **changes: Any) -> SagaExecution:
        """This execution with some fields of one step replaced."""
        old, steps = self.steps[index], self.steps
        new = replace(old, **changes)
        if isinstance(steps, PartialSteps):
            steps = steps.replacing(index, new)
        else:
            steps = (*steps[:index], new, *steps[index + 1 :])
        journal = self.journal
        if old.effect is not new.effect and self.plan.steps[index].compensation is not None:
            # In the order of the plan, in which steps end that do not run beside each other: what
            # was reported late is compensated in its step's turn.
            others = tuple(each for each in journal if each != (index,))
            journal = tuple(sorted((*others, (index,)))) if new.effect else others
        return replace(self, steps=steps, journal=journal)

    def sent(self, ref: StepRef, **changes: Any) -> SagaExecution:
        """This execution with a dispatch that is on its way from now on; it has no claim yet."""
        active = (*(each for each in self.active if each.path != ref.path), ref)
        changed = self.with_step(ref.step, epoch=ref.epoch, claim=None, **changes)
        return replace(changed, active=active)

    def ended(self, index: int, **changes: Any) -> SagaExecution:
        """This execution with the dispatch of a step over, and its claim with it."""
        active = tuple(each for each in self.active if each.path != (index,))
        return replace(self.with_step(index, claim=None, **changes), active=active)

    def with_values(self, update: Mapping[str, Any], remove: Collection[str] = ()) -> SagaExecution:
        """This execution with keys of its context set and deleted."""
        if not update and not remove:
            return self
        return replace(self, values=values_of(self.values).changed(update, remove))

    def unresolved(self) -> SagaStepExecution | None:
        """The last step whose effect may stand and which no compensation can undo.

        A step that succeeded is not meant: that it has no compensation says that it needs none.
        """
        left = (StepStatus.SUCCEEDED, StepStatus.SKIPPED)
        for planned, step in zip(reversed(self.plan.steps), reversed(self.steps), strict=True):
            if planned.compensation is None and step.effect and step.status not in left:
                return step
        return None

    def inputs_of(self, index: int, direction: Direction) -> Values:
        """What a step's task gets its inputs from: the context, or for a compensation what it was.

        A compensation sees its own step's result, then the context as it was when its step ended;
        the values of then that others have changed are kept in the step's record.
        """
        values, kept = values_of(self.values), self.steps[index].kept
        if direction is Direction.FORWARD or not kept:
            return values
        texts = {key: text for key, text in kept.items() if text is not None}
        return values.changed(Values(texts=texts), kept.keys() - texts.keys())

    def idempotency_key(self, index: int, direction: Direction) -> str:
        """``saga/step/direction/round``: equal over retries, redeliveries and epochs."""
        step = self.steps[index]
        turn = step.round if direction is Direction.FORWARD else step.compensation_round
        return f"{self.saga_id}/{step.name}/{direction}/{turn}"


def _check_whole(execution: SagaExecution) -> None:
    names = [step.name for step in execution.plan.steps]
    ref = StepRef((0,), Direction.FORWARD, 0)
    if StepRef.parse(ref.task_id(execution.saga_id)) != (execution.saga_id, ref):
        raise ValueError(f"{execution.saga_id!r} is no saga id")
    if [step.name for step in execution.steps] != names or not names:
        raise ValueError("its steps are not those of its plan")
    paths = {(index,) for index in range(len(names))}
    if not paths.issuperset([*execution.journal, *(ref.path for ref in execution.active)]):
        raise ValueError("it names steps that its plan does not have")


def from_parts(
    saga_id: str,
    head: Mapping[str, Any],
    *,
    plan: Plan,
    values: Mapping[str, Any],
    steps: Sequence[SagaStepExecution],
    history: tuple[Note, ...],
    revision: int,
) -> SagaExecution:
    """An execution from the parts in which a store keeps it.

    Raises:
        UnsupportedCheckpoint: a newer version of this library wrote it.
    """
    found = {
        "saga_id": saga_id,
        "plan": plan,
        "values": values,
        "steps": steps,
        "history": history,
        "revision": revision,
        **head_from_dict(saga_id, head),
    }
    return record_from(SagaExecution, found, "an execution")


def claimed(execution: SagaExecution, ref: StepRef, claim: Claim) -> SagaExecution | None:
    """The execution with ``claim`` on ``ref``, or ``None`` if the ref is not to be had.

    The ref must be the one that was dispatched last; a free ref
    is taken unless a later Celery retry is awaited, one's own claim is confirmed (a lost reply),
    and a message with more Celery retries takes over, because Celery sends it only when the
    earlier attempt has ended.
    """
    step = execution.at_step(ref)
    if step is None or execution.ref(ref.step) != ref:
        return None
    held = step.claim
    if held is not None and held.token == claim.token:
        return execution
    if claim.retries < step.retries or (held is not None and claim.retries == step.retries):
        return None
    taken = execution.with_step(ref.step, claim=claim, retries=claim.retries)
    return replace(taken, revision=execution.revision + 1)
