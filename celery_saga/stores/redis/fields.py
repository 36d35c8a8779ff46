"""An execution as the fields of a Redis hash, whole and as the difference of two."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from celery_saga.core.checkpoint import head_to_dict, record_to_dict, step_from_dict
from celery_saga.core.context.codec import JSON, Codec
from celery_saga.core.context.data import PartialValues, Values, values_of
from celery_saga.core.context.lazy import UNREAD, PartialSteps, Unread
from celery_saga.core.execution import (
    Claim,
    Direction,
    Note,
    SagaExecution,
    SagaStepExecution,
    StepRef,
    from_parts,
)
from celery_saga.core.plan import Plan

#: What a step's record leaves out: the plan has its name, and the claim script writes the rest.
_APART = frozenset({"name", "claim", "retries"})

#: Keys that one change may add: the place of a new key is its revision times this, and upwards.
MAX_KEYS = 1_000_000

#: Plans are equal for all runs of a saga, and are read once.
plan_of = lru_cache(maxsize=512)(Plan.from_text)


_dumps = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def _history(notes: tuple[Note, ...]) -> str:
    return _dumps([record_to_dict(note) for note in notes])


@dataclass
class Change:
    """What a save writes.

    Args:
        set: field, value, field, value...
        places: the same for places of keys; a key that has a place keeps it.
        delete: fields to drop.
        ended_claims: claims that end with this save, each with its ref.
    """

    set: list[Any] = field(default_factory=list)
    places: list[Any] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    ended_claims: list[tuple[Claim, StepRef]] = field(default_factory=list)


def creation(execution: SagaExecution) -> list[Any]:
    """All fields of a new execution: field, value, field, value..."""
    fields: list[Any] = ["head", _dumps(head_to_dict(execution)), "plan", execution.plan.text]
    for place, (key, value) in enumerate(values_of(execution.values).texts().items()):
        fields += [f"c:{key}", value, f"n:{key}", place]
    for index, step in enumerate(execution.steps):
        ref, record = execution.ref(index), record_to_dict(step, leave_out=_APART)
        if not record:
            continue  # a step without a record is pending and untouched
        fields += [f"s{index}", _dumps(record)]
        if ref is not None:
            fields += [f"o{index}", f"{ref} {step.retries}"]
    if execution.run_id:
        fields += ["run_id", execution.run_id]  # the scripts look for it there
    if execution.history:
        fields += ["h1", _history(execution.history)]
    return fields


def changes(before: SagaExecution, after: SagaExecution) -> Change:
    """The difference; what is the same object is the same."""
    change = Change()
    change.set += ["head", _dumps(head_to_dict(after))]  # it has the time of the change
    if added := _added(before.history, after.history):
        change.set += [f"h{before.revision + 1}", _history(added)]
    _context_changes(change, before.values, after.values, before.revision)
    for index, new in _known(after.steps):
        old = before.steps[index]
        if new is not old:
            _step_changes(change, index, old, new, before.ref(index), after.ref(index))
    return change


def _added(before: tuple[Note, ...], after: tuple[Note, ...]) -> tuple[Note, ...]:
    """The new lines of history, of which the old ones need not be read."""
    return after.added_since(before) if isinstance(after, Unread) else after[len(before) :]


def _known(steps: Sequence[SagaStepExecution]) -> Iterable[tuple[int, SagaStepExecution]]:
    return steps.items() if isinstance(steps, PartialSteps) else enumerate(steps)


def _context_changes(
    change: Change, before: Mapping[str, Any], after: Mapping[str, Any], revision: int
) -> None:
    if after is before:
        return
    texts, new, gone = values_of(after).since(values_of(before))
    for key, text in texts.items():
        change.set += [f"c:{key}", text]
    # Keys that are new come after all that are there, in their own order.
    for place, key in enumerate(new, start=revision * MAX_KEYS):
        change.places += [f"n:{key}", place]
    for key in gone:
        change.delete += [f"c:{key}", f"n:{key}"]


def _step_changes(
    change: Change,
    index: int,
    old: SagaStepExecution,
    new: SagaStepExecution,
    was: StepRef | None,
    now: StepRef | None,
) -> None:
    change.set += [f"s{index}", _dumps(record_to_dict(new, leave_out=_APART))]
    if now is not None:
        change.set += [f"o{index}", f"{now} {new.retries}"]
    elif was is not None:
        change.delete.append(f"o{index}")
    if old.claim is not None and new.claim != old.claim:
        # Claims are only ever given by the claim script; a save can but end them.
        change.delete.append(f"k{index}")
        if was is not None:
            change.ended_claims.append((old.claim, was))


@dataclass(frozen=True)
class Part:
    """What a claim reads of a saga, beside its revision and the claim.

    Args:
        steps: the steps whose records are read, the claimed one first.
        keys: the keys of the context.
    """

    steps: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()

    @cached_property
    def records(self) -> list[str]:
        """The fields that hold records, each JSON."""
        return ["head", "z", *(f"s{i}" for i in self.steps)]

    @cached_property
    def fields(self) -> list[Any]:
        """As the claim script takes them: how many records, and all fields."""
        return [len(self.records), *self.records, *(f"c:{key}" for key in self.keys)]


def part_for(plan: Plan, ref: StepRef) -> Part | None:
    """What a step that succeeds needs, and its successor; ``None``: all of it is needed."""
    index, steps = ref.step, plan.steps
    if ref.direction is Direction.FORWARD:
        own, after = steps[index].action, index + 1 if index + 1 < len(steps) else None
        call = steps[after].action if after is not None else None
    else:
        compensation = steps[index].compensation
        below = (i for i in range(index - 1, -1, -1) if steps[i].compensation is not None)
        after = next(below, None)
        if compensation is None or after is None:
            return None  # the end of the way back looks at every step
        own, call = compensation, steps[after].compensation
    if own.style == "context" or (call and call.style == "context"):
        return None
    paths = [item.path for item in call.inputs] if call else []
    keys = dict.fromkeys(str(path[0]) for path in paths if path)
    return Part((index,) if after is None else (index, after), tuple(keys))


def load_partial(
    saga_id: str,
    plan: Plan,
    part: Part,
    records: Sequence[Any],
    texts: Sequence[str],
    codec: Codec = JSON,
) -> SagaExecution:
    """The execution of which only a part was read.

    Args:
        records: revision, claim, and the values of :attr:`Part.records`, out of their JSON.
        texts: those of :attr:`Part.keys`, empty for what is not there.
        codec: reads them.
    """
    known = {key: text for key, text in zip(part.keys, texts, strict=True) if text}
    revision, claim, head, size, own, *after = records
    active = {StepRef.of(text).step for text in head.get("active", ())}
    steps = {part.steps[0]: _read_step(plan, part.steps[0], own, claim["retries"], claim)}
    for index, record in zip(part.steps[1:], after, strict=True):
        if index not in active:  # then it would have more than a record
            steps[index] = _read_step(plan, index, record, 0, None)
    absent = frozenset(part.keys).difference(known)
    return from_parts(
        saga_id,
        head,
        plan=plan,
        values=PartialValues(known, absent, size or 0, saga_id, codec),
        steps=PartialSteps(steps, len(plan.steps)),
        history=UNREAD,
        revision=revision,
    )


def load_full(
    saga_id: str,
    found: Sequence[Any],
    plan: Plan | None = None,
    context: bool = True,
    codec: Codec = JSON,
) -> SagaExecution:
    """The execution as the scripts' ``whole`` gives it.

    Args:
        found: the records as one JSON object, the plan, then key, text... of the context.
        plan: the plan, if it was not read because it is known.
        context: whether the context was read.
        codec: reads its values.
    """
    records = json.loads(found[0])
    plan = plan or plan_of(found[1].decode())
    texts = {key.decode(): text for key, text in zip(found[2::2], found[3::2], strict=True)}
    part = PartialValues({}, size=records.get("z", 0), owner=saga_id, codec=codec)
    steps = tuple(
        _read_step(plan, i, records.get(f"s{i}"), _retries(records, i), records.get(f"k{i}"))
        for i in range(len(plan.steps))
    )
    lines = sorted((name for name in records if name[0] == "h" and name != "head"), key=_revision)
    return from_parts(
        saga_id,
        records["head"],
        plan=plan,
        values=Values(texts=texts, owner=saga_id, codec=codec) if context else part,
        steps=steps,
        history=tuple(Note(**note) for name in lines for note in records[name]),
        revision=records["rev"],
    )


def _revision(field: str) -> int:
    return int(field[1:])


def _retries(records: Mapping[str, Any], index: int) -> int:
    _, _, seen = records.get(f"o{index}", "").partition(" ")
    return int(seen or 0)


def _read_step(
    plan: Plan, index: int, record: Any, retries: int | None, claim: Any
) -> SagaStepExecution:
    name = plan.steps[index].name
    if not record and not retries and claim is None:
        return _untouched(name)
    held = Claim(**claim) if claim else None
    return step_from_dict(record or {}, name=name, retries=retries or 0, claim=held)


_untouched = lru_cache(maxsize=4096)(SagaStepExecution)
