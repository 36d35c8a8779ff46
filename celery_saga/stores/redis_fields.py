"""An execution as the fields of a Redis hash, whole and as the difference of two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from celery_saga import codec
from celery_saga.checkpoint import from_parts, head_to_dict, record_to_dict, step_from_dict
from celery_saga.execution import Claim, Note, SagaExecution, SagaStepExecution, Slot
from celery_saga.plan import Plan

#: Fields of a step that have a field of their own, because the claim script reads them.
_APART = frozenset({"claim", "retries"})

#: Keys that one change may add: the place of a new key is its revision times this, and upwards.
MAX_KEYS = 1_000_000

_plan = lru_cache(maxsize=512)(Plan.from_text)


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _history(notes: tuple[Note, ...]) -> str:
    return _dumps([record_to_dict(note) for note in notes])


@dataclass
class Change:
    """What a save writes.

    Args:
        set: field, value, field, value...
        delete: fields to drop.
        given_up: claims that end with this save, each with its slot.
    """

    set: list[Any] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    given_up: list[tuple[Claim, Slot]] = field(default_factory=list)


def creation(execution: SagaExecution) -> list[Any]:
    """All fields of a new execution: field, value, field, value..."""
    fields: list[Any] = ["head", _dumps(head_to_dict(execution)), "plan", execution.plan.text]
    for place, (key, value) in enumerate(codec.encode_context(execution.values).items()):
        fields += [f"c:{key}", value, f"n:{key}", place]
    for index, step in enumerate(execution.steps):
        fields += [f"s{index}", _dumps(record_to_dict(step, leave_out=_APART))]
        slot = execution.slot(index)
        if slot is not None:
            fields += [f"o{index}", str(slot), f"r{index}", step.retries]
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
    for index, (old, new) in enumerate(zip(before.steps, after.steps, strict=True)):
        if new is not old:
            _step_changes(change, index, old, new, before.slot(index), after.slot(index))
    return change


def _context_changes(
    change: Change, before: Mapping[str, Any], after: Mapping[str, Any], revision: int
) -> None:
    if after is before:
        return
    changed = {
        key: value for key, value in after.items() if key not in before or before[key] is not value
    }
    for key, value in codec.encode_context(changed).items():
        change.set += [f"c:{key}", value]
    # Keys that are new come after all that are there, in their own order.
    new = [key for key in changed if key not in before]
    for place, key in enumerate(new, start=revision * MAX_KEYS):
        change.set += [f"n:{key}", place]
    for key in before:
        if key not in after:
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


def from_hash(saga_id: str, found: Mapping[bytes, bytes]) -> SagaExecution:
    """The execution that a hash holds."""
    plan = _plan(found[b"plan"].decode())
    keys = [field[2:] for field in found if field.startswith(b"c:")]
    keys.sort(key=lambda key: int(found.get(b"n:" + key, 0)))
    values = {key.decode(): codec.loads(found[b"c:" + key]) for key in keys}
    steps = tuple(_step(found, index) for index in range(len(plan.steps)))
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


def _step(found: Mapping[bytes, bytes], index: int) -> SagaStepExecution:
    step = step_from_dict(json.loads(found[b"s%d" % index]))
    retries = int(found.get(b"r%d" % index, b"0"))
    claim = found.get(b"k%d" % index)
    if claim is None and not retries:
        return step
    return replace(step, retries=retries, claim=Claim(**json.loads(claim)) if claim else None)
