"""An execution as the fields of a Redis hash, whole and as the difference of two."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from celery_saga import codec
from celery_saga.checkpoint import head_to_dict, record_to_dict, step_from_dict
from celery_saga.execution import (
    Claim,
    Direction,
    Note,
    SagaExecution,
    SagaStepExecution,
    Slot,
    evolved,
    from_parts,
)
from celery_saga.partial import UNREAD, PartialSteps, PartialValues
from celery_saga.plan import Plan

#: Fields of a step that have a field of their own, because the claim script reads them.
_APART = frozenset({"claim", "retries"})

#: Keys that one change may add: the place of a new key is its revision times this, and upwards.
MAX_KEYS = 1_000_000

#: Plans are equal for all runs of a saga, and are read once.
plan_of = lru_cache(maxsize=512)(Plan.from_text)


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _history(notes: tuple[Note, ...]) -> str:
    return _dumps([record_to_dict(note) for note in notes])


@dataclass
class Change:
    """What a save writes.

    Args:
        set: field, value, field, value...
        places: the same for places of keys; a key that has a place keeps it.
        delete: fields to drop.
        given_up: claims that end with this save, each with its slot.
    """

    set: list[Any] = field(default_factory=list)
    places: list[Any] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    given_up: list[tuple[Claim, Slot]] = field(default_factory=list)


def creation(execution: SagaExecution) -> list[Any]:
    """All fields of a new execution: field, value, field, value..."""
    fields: list[Any] = ["head", _dumps(head_to_dict(execution)), "plan", execution.plan.text]
    for place, (key, value) in enumerate(codec.encode_context(execution.values).items()):
        fields += [f"c:{key}", value, f"n:{key}", place]
    for index, step in enumerate(execution.steps):
        slot = execution.slot(index)
        if slot is not None:
            # A step without a record is pending and untouched.
            fields += [f"s{index}", _dumps(record_to_dict(step, leave_out=_APART))]
            fields += [f"o{index}", str(slot), f"r{index}", step.retries]
        elif step != SagaStepExecution(step.name):
            fields += [f"s{index}", _dumps(record_to_dict(step, leave_out=_APART))]
    return [*fields, "h", _history(execution.history)]


def changes(before: SagaExecution, after: SagaExecution) -> Change:
    """The difference; what is the same object is the same."""
    change = Change()
    old_head, head = head_to_dict(before), head_to_dict(after)
    if head != old_head:
        change.set += ["head", _dumps(head)]
    if after.history is not before.history:
        change.set += ["h", _history(after.history)]
    _context_changes(change, before.values, after.values, before.revision)
    for index, new in _known(after.steps):
        old = before.steps[index]
        if new is not old:
            _step_changes(change, index, old, new, before.slot(index), after.slot(index))
    return change


def _known(steps: Sequence[SagaStepExecution]) -> Iterable[tuple[int, SagaStepExecution]]:
    return steps.items() if isinstance(steps, PartialSteps) else enumerate(steps)


def _context_changes(
    change: Change, before: Mapping[str, Any], after: Mapping[str, Any], revision: int
) -> None:
    if after is before:
        return
    if isinstance(after, PartialValues):
        known: Mapping[str, Any] = after.known
        changed, gone = dict(after.update), list(after.removed)
    else:
        known = before
        gone = [key for key in before if key not in after]
        changed = {
            key: value
            for key, value in after.items()
            if key not in before or before[key] is not value
        }
    for key, value in codec.encode_context(changed).items():
        change.set += [f"c:{key}", value]
    # Keys that are new come after all that are there, in their own order.
    new = [key for key in changed if key not in known]
    for place, key in enumerate(new, start=revision * MAX_KEYS):
        change.places += [f"n:{key}", place]
    for key in gone:
        change.delete += [f"c:{key}", f"n:{key}"]


def _step_changes(
    change: Change,
    index: int,
    old: SagaStepExecution,
    new: SagaStepExecution,
    was: Slot | None,
    now: Slot | None,
) -> None:
    change.set += [f"s{index}", _dumps(record_to_dict(new, leave_out=_APART))]
    if now is not None:
        change.set += [f"o{index}", str(now), f"r{index}", new.retries]
    elif was is not None:
        change.delete += [f"o{index}", f"r{index}"]
    if old.claim is not None and new.claim != old.claim:
        # Claims are only ever given by the claim script; a save can but end them.
        change.delete.append(f"k{index}")
        if was is not None:
            change.given_up.append((old.claim, was))


def fields_for(plan: Plan, slot: Slot) -> list[str]:
    """The fields that a forward step and its successor need; empty: all of them are needed."""
    last = slot.step + 1 >= len(plan.steps)
    calls = [step.action for step in plan.steps[slot.step : slot.step + 2]]
    if slot.direction is Direction.BACKWARD or any(call.style == "context" for call in calls):
        return []
    steps = [slot.step] if last else [slot.step, slot.step + 1]
    found = ["rev", "head"]
    for index in steps:
        found += [f"s{index}", f"r{index}", f"k{index}"]
    if not last:
        paths = [item.path for item in calls[1].inputs]
        found += [f"c:{key}" for key in dict.fromkeys(path[0] for path in paths if path)]
    return found


def partly(saga_id: str, plan: Plan, fields: Sequence[str], values: Sequence[Any]) -> SagaExecution:
    """The execution of which only :func:`fields_for` was read."""
    found = {
        name.encode(): value
        for name, value in zip(fields, values, strict=True)
        if value is not None
    }
    asked = [name for name in fields if name.startswith("c:")]
    known = {
        name[2:]: codec.loads(found[name.encode()]) for name in asked if name.encode() in found
    }
    places = [int(name[1:]) for name in fields if name[0] == "s"]
    return from_parts(
        saga_id,
        json.loads(found[b"head"]),
        plan=plan,
        values=PartialValues(known, frozenset(name[2:] for name in asked) - known.keys()),
        steps=PartialSteps({i: _step(found, plan, i) for i in places}, len(plan.steps)),
        history=UNREAD,
        revision=int(found[b"rev"]),
    )


def from_hash(saga_id: str, found: Mapping[bytes, bytes]) -> SagaExecution:
    """The execution that a hash holds."""
    plan = plan_of(found[b"plan"].decode())
    keys = [field[2:] for field in found if field.startswith(b"c:")]
    keys.sort(key=lambda key: int(found.get(b"n:" + key, 0)))
    values = {key.decode(): codec.loads(found[b"c:" + key]) for key in keys}
    steps = tuple(_step(found, plan, index) for index in range(len(plan.steps)))
    history = tuple(Note(**note) for note in json.loads(found.get(b"h", b"[]")))
    return from_parts(
        saga_id,
        json.loads(found[b"head"]),
        plan=plan,
        values=values,
        steps=steps,
        history=history,
        revision=int(found[b"rev"]),
    )


def _step(found: Mapping[bytes, bytes], plan: Plan, index: int) -> SagaStepExecution:
    record = found.get(b"s%d" % index)
    step = _record(record) if record else _untouched(plan.steps[index].name)
    retries = int(found.get(b"r%d" % index, b"0"))
    claim = found.get(b"k%d" % index)
    if claim is None and not retries:
        return step
    return evolved(step, retries=retries, claim=Claim(**json.loads(claim)) if claim else None)


@lru_cache(maxsize=4096)
def _record(text: bytes) -> SagaStepExecution:
    return step_from_dict(json.loads(text))


_untouched = lru_cache(maxsize=4096)(SagaStepExecution)
