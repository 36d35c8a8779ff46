"""One run of a saga, as immutable data; :mod:`celery_saga.core.decide` makes a new one of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_saga.core.checkpoint import (
    head_from_dict,
    head_to_dict,
    record_from,
    record_to_dict,
)
from celery_saga.core.context.data import Values, is_read, values_of
from celery_saga.core.context.saga_context import SagaContext
from celery_saga.core.context.scoped import View, written
from celery_saga.core.plan import Path, Plan
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
    Signal,
    StepRef,
    StepStatus,
    replace,
)
from celery_saga.core.steps import Place, Steps

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
    "from_parts",
]


@dataclass(frozen=True)
class SagaExecution:
    """One run of a saga.

    Args:
        saga_id: its id, also the Celery result id of the whole run.
        plan: the frozen plan.
        values: the context's data; :attr:`context` gives it as a :class:`SagaContext`.
        steps: the records of its steps, in the plan's order; see :class:`Steps`.
        status: see :class:`SagaStatus`.
        direction: forward, or compensation once the rollback began.
        active: the dispatches that are sent and not over yet; without branches one at most.
        held: why the saga gets stuck as soon as none of its other branches can continue.
        journal: paths of the steps with a compensation whose effects stand or may stand, in the
            order in which these steps end; the rollback takes them from its end.
        replaced: index of the step that replaced a key last which steps before it have kept.
        revision: raised by every saved change; a save names the one that it read.
        rollback_reason: why the saga is rolled back as soon as no forward claim is alive.
        error: why it failed.
        deadline: store time at which the way forward ends, unless the pivot was sent.
        due_at: when the sweep looks next, store time; ``None``: never.
        wants_result: its end is to be stored as the Celery result of its id.
        result_pending: it is settled, and that is not stored, or its callers are not notified.
        callbacks: what its end is to call, as JSON (:mod:`celery_saga.messaging.callbacks`).
        headers: of the message that started it (:mod:`celery_saga.messaging.headers`).
        history: what operators and exceptional events did, to be read; it is only appended to.
        stuck_count: how often it has got stuck.
        last_requests: of operators, the newest last; no more than a few.
        signals: that were sent to it.
        resolved_at: store time at which an operator said last how it has ended.
        root_id, parent_id: of the Celery task in which it was started; empty: outside of tasks.
        run_id: drawn where its saga id was given: an earlier saga of that id had another one.
        first_round: of its steps: above those of runs that it was started in the place of.
        opened_with: digest of the context that it began with, by which a second start is compared.
        created_at, updated_at: store times of the start and of the last transition.
    """

    saga_id: str
    plan: Plan
    values: Mapping[str, Any] = field(default_factory=dict)
    steps: Steps = None  # type: ignore[assignment]
    status: SagaStatus = SagaStatus.CREATED
    direction: Direction = Direction.FORWARD
    active: tuple[StepRef, ...] = ()
    journal: tuple[tuple[int, ...], ...] = ()
    replaced: Mapping[str, int] | None = None
    revision: int = 0
    rollback_reason: Failure | None = None
    held: Failure | None = None
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
    signals: tuple[Signal, ...] = field(default=(), repr=False)  # payloads are in them
    resolved_at: float | None = None
    root_id: str = ""
    parent_id: str = ""
    run_id: str = ""
    first_round: int = 0
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
        new = cls(saga_id, plan, Values(values), deadline=deadline)
        return replace(new, created_at=at, updated_at=at)

    def __post_init__(self) -> None:
        if not isinstance(self.steps, Steps):  # one record a step, of a plan without branches
            object.__setattr__(self, "steps", Steps.of(self.plan, self.steps or ()))

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

        ``{"version": 1, "saga_id": "...", "status": "COMPLETED", "plan": {...}, "context": {...},
        "steps": [{"name": "charge", "status": "SUCCEEDED", ...}, ...], "history": [...], ...}``.
        Values that JSON lacks are in it as kombu writes them; see :meth:`from_raw`.
        """
        context = values_of(self.values).texts()
        return {
            "saga_id": self.saga_id,
            "plan": json.loads(self.plan.text),
            "context": {key: json.loads(text) for key, text in context.items()},
            "steps": self.steps.raw(),
            "history": [record_to_dict(note) for note in self.history],
            "revision": self.revision,
            **head_to_dict(self),
        }

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> SagaExecution:
        """The execution that :attr:`raw` was read from; it is not saved anywhere.

        Raises:
            UnsupportedCheckpoint: a newer version of this library wrote it.
            ValueError: it is not the export of an execution; the cause is ``__cause__``.
        """
        try:
            head = dict(raw)
            saga_id, plan, context = (head.pop(key) for key in ("saga_id", "plan", "context"))
            fields = head_from_dict(saga_id, {**head, "version": head["version"]})
            fields["history"] = tuple(Note(**note) for note in fields["history"])
            values = Values(texts={key: json.dumps(value) for key, value in context.items()})
            dict(values)  # what cannot be read is found here
            known = Plan.from_text(json.dumps(plan))
            fields["steps"] = Steps.from_raw(known, fields["steps"])
            found = cls(saga_id, known, values, **fields)
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
        """A copy of the context as it is now; of branches that are under way nothing is in it."""
        context = SagaContext()
        context.update(self.view(()))
        return context

    @property
    def settled(self) -> bool:
        """Whether waiters are answered: completed, compensated or stuck."""
        return self.status in SETTLED

    @property
    def whole(self) -> bool:
        """Whether all of it was read."""
        return self.steps.whole and is_read(self.values)

    def view(self, path: Path) -> Values:
        """The context as the node at ``path`` sees it; the empty path: the saga's own."""
        values = values_of(self.values)
        return values if self.plan.linear else View(values, self.plan.scopes(path))

    def ref(self, place: Place) -> StepRef | None:
        """The ref of a step if its task is sent and not over yet."""
        path = self.steps.path(place)
        return next((ref for ref in self.active if ref.path == path), None)

    @property
    def first_active(self) -> StepRef | None:
        """The dispatch that is active for the longest time, if one is."""
        return next(iter(self.active), None)

    def activity(self, place: Place) -> str:
        """What a step does now: ``"queued"``, ``"running"``, ``"requested"``; empty: nothing."""
        step = self.steps[place]
        sent = "queued" if step.open_request is None else "requested"
        return "" if self.ref(place) is None else sent if step.claim is None else "running"

    @property
    def next_compensations(self) -> list[Path]:
        """Paths of the steps that may be compensated now, beside the compensations that are active.

        The last one on the journal; where branches are compensated at the same time, of each. A
        step whose compensation has failed stays on the journal, for an operator's retry.
        """
        first = [ref.path for ref in self.active if ref.direction is Direction.COMPENSATION]
        found: list[Path] = []
        for path in reversed(self.journal):
            if first and not self.plan.compensates_in_parallel:
                break
            if self.steps[path].status is StepStatus.COMPENSATION_FAILED or path in first:
                continue
            if all(self.plan.independent(path, other) for other in first):
                found.append(path)
            first.append(path)
        return found

    @property
    def current(self) -> Path | None:
        """Path of the step at which the run is: sent, waiting or next; ``None``: none is left."""
        if self.active:
            return self.active[0].path
        if self.direction is Direction.COMPENSATION:
            return next(iter(self.next_compensations), None)
        return next(iter(self.frontier()), None)

    def frontier(self) -> Iterator[Path]:
        """Paths of the nodes that are to be begun, or sent again, and are not active."""
        return (path for path in self.steps.frontier() if self.ref(path) is None)

    @property
    def root(self) -> str:
        """The root id of its tasks; of a saga that no task has started its first step's."""
        return self.root_id or StepRef(self.plan.first, Direction.FORWARD, 1).task_id(self.saga_id)

    def at_step(self, ref: StepRef) -> SagaStepExecution | None:
        """The step that ``ref`` names, if this execution has it."""
        return self.steps[ref.path] if self.plan.has(ref.path) else None

    def with_step(self, place: Place, **changes: Any) -> SagaExecution:
        """This execution with some fields of one record replaced."""
        return self._with_record(self.steps.path(place), changes)

    def _with_record(self, path: Path, changes: Mapping[str, Any], **more: Any) -> SagaExecution:
        old, journal = self.steps[path], self.journal
        new = replace(old, **changes)
        moves = old.effect is not new.effect or (new.effect and old.ended_at != new.ended_at)
        if moves and self.plan.step(path).compensation is not None:
            without = tuple(each for each in journal if each != path)
            journal = self._entered(path) if new.effect else without
        return replace(self, steps=self.steps.replacing(path, new), journal=journal, **more)

    def _entered(self, path: Path) -> tuple[Path, ...]:
        """The journal with one more entry; a late one before all steps that begin after its own."""
        journal = self.journal
        if not journal or (self.plan.linear and journal[-1] < path):
            return (*journal, path)
        journal = tuple(each for each in journal if each != path)
        later = (place for place, each in enumerate(journal) if self.plan.ends_before(path, each))
        place = next(later, len(journal))
        return (*journal[:place], path, *journal[place:])

    def sent(self, ref: StepRef, **changes: Any) -> SagaExecution:
        """This execution with a dispatch that is active from now on; it has no claim yet."""
        active = (*(each for each in self.active if each.path != ref.path), ref)
        changes |= {"epoch": ref.epoch, "claim": None}
        return self._with_record(ref.path, changes, active=active)

    def ended(self, place: Place, **changes: Any) -> SagaExecution:
        """This execution with the dispatch of a step over, and its claim with it."""
        path = self.steps.path(place)
        active = tuple(each for each in self.active if each.path != path)
        return self._with_record(path, {"claim": None, **changes}, active=active)

    def with_values(
        self, update: Mapping[str, Any], remove: Collection[str] = (), path: Path = ()
    ) -> SagaExecution:
        """This execution with keys of its context set and deleted.

        Args:
            path: the node that does it, into its scope.
        """
        if not update and not remove:
            return self
        values = values_of(self.values)
        update, remove = written(values, self.plan.scopes(path), update, remove)
        return replace(self, values=values.changed(update, remove))

    def unresolved(self) -> SagaStepExecution | None:
        """The last step whose effect may stand and which no compensation can take back.

        One that succeeded is not meant: that it has no compensation says that it needs none.
        """
        left = (StepStatus.SUCCEEDED, StepStatus.SKIPPED)
        open_ = (path for path in reversed(self.steps.paths()) if self.steps[path].effect)
        found = (path for path in open_ if self.plan.step(path).compensation is None)
        return next((self.steps[it] for it in found if self.steps[it].status not in left), None)

    def inputs_of(self, place: Place, direction: Direction) -> Values:
        """What a task gets its inputs from: the context; of a compensation or commit what it was.

        Those see their own step's result, then the context as it was when that step ended; the
        values of then that others have changed are kept in the step's record.
        """
        path = self.steps.path(place)
        values, of = self.view(path), self.plan.committed(path)
        later = of is not None or direction is Direction.COMPENSATION
        kept = self.steps[of or path].kept if later else None
        if not kept:
            return values
        texts = {key: text for key, text in kept.items() if text is not None}
        return values.changed(Values(texts=texts), kept.keys() - texts.keys())

    def idempotency_key(self, place: Place, direction: Direction) -> str:
        """``saga/step/direction/round``: equal over retries, redeliveries and epochs."""
        return f"{self.saga_id}/{self.steps[place].name}/{direction}/{self.round(place, direction)}"

    def round(self, place: Place, direction: Direction) -> int:
        """How often a step, or its compensation, began anew; over all runs of the id."""
        return self.first_round + self.steps[place].round_of(direction)


def _check_whole(execution: SagaExecution) -> None:
    ref = StepRef((0,), Direction.FORWARD, 0)
    if StepRef.parse(ref.task_id(execution.saga_id)) != (execution.saga_id, ref):
        raise ValueError(f"{execution.saga_id!r} is not a saga id")
    paths = [*execution.journal, *(ref.path for ref in execution.active)]
    if not all(map(execution.plan.has, paths)):
        raise ValueError("it names steps that its plan does not have")


def from_parts(
    saga_id: str,
    head: Mapping[str, Any],
    *,
    plan: Plan,
    values: Mapping[str, Any],
    steps: Steps,
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
