"""An execution as the fields of a Redis hash, whole and as the difference of two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from celery_saga.core.checkpoint import head_to_dict, record_to_dict, step_from_dict
from celery_saga.core.context.codec import JSON, Codec
from celery_saga.core.context.data import PartialValues, Values, values_of
from celery_saga.core.context.lazy import UNREAD, Unread
from celery_saga.core.context.scoped import lookups, stored_name
from celery_saga.core.execution import (
    Claim,
    Direction,
    Note,
    SagaExecution,
    SagaStepExecution,
    StepRef,
    from_parts,
)
from celery_saga.core.plan import Call, NestedSaga, Path, Plan, PlanStep, dotted
from celery_saga.core.plan.nodes import runs_together
from celery_saga.core.steps import Steps, untouched

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
    for path, step in execution.steps.items():
        ref, record = execution.ref(path), record_to_dict(step, leave_out=_APART)
        if not record:
            continue  # a step without a record is pending and untouched
        fields += [f"s{dotted(path)}", _dumps(record)]
        if ref is not None:
            fields += [f"o{dotted(path)}", f"{ref} {step.retries}"]
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
    for path, new in after.steps.items():
        old = before.steps.known(path)
        if new is not old:
            claim = None if old is None else old.claim
            _step_changes(change, dotted(path), claim, new, before.ref(path), after.ref(path))
    return change


def _added(before: tuple[Note, ...], after: tuple[Note, ...]) -> tuple[Note, ...]:
    """The new lines of history, of which the old ones need not be read."""
    return after.added_since(before) if isinstance(after, Unread) else after[len(before) :]


def _context_changes(
    change: Change, before: Mapping[str, Any], after: Mapping[str, Any], revision: int
) -> None:
    if after is before:
        return
    texts, new, removed = values_of(after).since(values_of(before))
    for key, text in texts.items():
        change.set += [f"c:{key}", text]
    # Keys that are new come after all that are there, in their own order.
    for place, key in enumerate(new, start=revision * MAX_KEYS):
        change.places += [f"n:{key}", place]
    for key in removed:
        change.delete += [f"c:{key}", f"n:{key}"]


def _step_changes(
    change: Change,
    place: str,
    held: Claim | None,
    new: SagaStepExecution,
    was: StepRef | None,
    now: StepRef | None,
) -> None:
    change.set += [f"s{place}", _dumps(record_to_dict(new, leave_out=_APART))]
    if now is not None:
        change.set += [f"o{place}", f"{now} {new.retries}"]
    elif was is not None:
        change.delete.append(f"o{place}")
    if held is not None and new.claim != held:
        # Claims are only ever given by the claim script; a save can but end them.
        change.delete.append(f"k{place}")
        if was is not None:
            change.ended_claims.append((held, was))


@dataclass(frozen=True)
class Part:
    """What a claim reads of a saga, beside its revision and the claim.

    Args:
        steps: the paths of the records that are read, that of the claimed step first.
        keys: the keys of the context, by their stored names.
    """

    steps: tuple[Path, ...] = ()
    keys: tuple[str, ...] = ()

    @cached_property
    def records(self) -> list[str]:
        """The fields that hold records, each JSON."""
        return ["head", "z", *(f"s{dotted(path)}" for path in self.steps)]

    @cached_property
    def fields(self) -> list[Any]:
        """As the claim script takes them: how many records, and all fields."""
        return [len(self.records), *self.records, *(f"c:{key}" for key in self.keys)]


def part_for(plan: Plan, ref: StepRef) -> Part | None:
    """What a step that succeeds needs, and its successor; ``None``: all of it is needed."""
    node = plan.at(ref.path)
    if not isinstance(node, PlanStep) or node.is_remote:
        return None
    if ref.direction is Direction.FORWARD:
        return _part_forward(plan, ref.path, node)
    if node.compensation is None or not plan.linear:
        return None
    below = ((i,) for i in range(ref.path[0] - 1, -1, -1))
    after = next((path for path in below if plan.step(path).compensation is not None), None)
    if after is None:
        return None  # the end of the rollback looks at every step
    return _part(plan, node.compensation, ref.path, after, plan.step(after).compensation)


def _part_forward(plan: Plan, path: Path, node: PlanStep) -> Part | None:
    of = plan.committed(path)
    if of is not None:  # the last one to end needs all of it
        return Part((path, path[:1], of)) if node.action.style == "inputs" else None
    parent, place = plan.at(path[:-1]), path[-1]
    if isinstance(parent, NestedSaga) and place + 1 < len(parent.steps):
        following = (*path[:-1], place + 1)
        after = plan.at(following)
        if not isinstance(after, PlanStep):
            return None
        return _with_replaced(
            plan, path, node, _part(plan, node.action, path, following, after.action)
        )
    if len(path) == 1:
        return _with_replaced(plan, path, node, _part(plan, node.action, path))
    group = path[:-1]
    while isinstance(parent, NestedSaga) and not parent.scoped and group:
        if group[-1] + 1 < _length(plan, group[:-1]):
            return None
        group = group[:-1]
        parent = plan.at(group)
    # The last branch of a group to end needs all of it; the others need its record alone.
    return _part(plan, node.action, path, group) if runs_together(parent) else None


def _with_replaced(plan: Plan, path: Path, node: PlanStep, part: Part | None) -> Part | None:
    """The part, with what else is needed if the step replaces what an earlier compensation reads.

    That is the old value, and the record of the last such step, in which it is kept: those before
    have kept it when that step replaced it. If the plan does not say what a step writes, it is what
    only its own compensation reads.
    """
    if part is None or not plan.linear or (plan.pivot is not None and path >= plan.pivot):
        return part
    call, keys = node.action, node.later_reads
    if call.returns is None:
        keys = keys.difference(str(item.path[0]) for item in call.inputs if item.path)
    else:
        keys = frozenset((call.returns,)) if isinstance(call.returns, str) else frozenset()
    records, values = list(part.steps), list(part.keys)
    for key in sorted(keys):
        earlier = [reader for reader in plan.readers.get(key, ()) if reader < path]
        if earlier:
            records.append(earlier[-1])
            values.append(key)
    return Part(tuple(dict.fromkeys(records)), tuple(dict.fromkeys(values)))


def _length(plan: Plan, path: Path) -> int:
    """How many nodes follow each other in a nested saga; in other nodes none does."""
    node = plan.at(path)
    return len(node.steps) if isinstance(node, NestedSaga) else 0


def _part(
    plan: Plan, own: Call, path: Path, after: Path | None = None, call: Call | None = None
) -> Part | None:
    if own.style == "context" or (call and call.style == "context"):
        return None
    if after is None:
        return Part((path,))
    scopes, names = plan.scopes(after), []
    for item in call.inputs if call else ():
        for scope, key in lookups(scopes, str(item.path[0])) if item.path else ():
            names.append(stored_name(scope.id, key))
    return Part((path, after), tuple(dict.fromkeys(names)))


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
    active = {StepRef.of(text).path for text in head.get("active", ())}
    steps = {part.steps[0]: _read_step(plan, part.steps[0], own, claim["retries"], claim)}
    for path, record in zip(part.steps[1:], after, strict=True):
        if path not in active:  # then it would have more than a record
            steps[path] = _read_step(plan, path, record, 0, None)
    absent = frozenset(part.keys).difference(known)
    return from_parts(
        saga_id,
        head,
        plan=plan,
        values=PartialValues(known, absent, size or 0, saga_id, codec),
        steps=Steps(plan, steps, whole=False),
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
    places = {name[1:] for name in records if name[0] in "sok" and name[1:2].isdigit()}
    steps = {}
    for place in places:
        path = tuple(map(int, place.split(".")))
        retries, claim = _retries(records, place), records.get(f"k{place}")
        steps[path] = _read_step(plan, path, records.get(f"s{place}"), retries, claim)
    lines = sorted((name for name in records if name[0] == "h" and name != "head"), key=_revision)
    return from_parts(
        saga_id,
        records["head"],
        plan=plan,
        values=Values(texts=texts, owner=saga_id, codec=codec) if context else part,
        steps=Steps(plan, steps),
        history=tuple(Note(**note) for name in lines for note in records[name]),
        revision=records["rev"],
    )


def _revision(field: str) -> int:
    return int(field[1:])


def _retries(records: Mapping[str, Any], place: str) -> int:
    _, _, seen = records.get(f"o{place}", "").partition(" ")
    return int(seen or 0)


def _read_step(
    plan: Plan, path: Path, record: Any, retries: int | None, claim: Any
) -> SagaStepExecution:
    name = plan.name_of(path)
    if not record and not retries and claim is None:
        return untouched(name)
    held = Claim(**claim) if claim else None
    return step_from_dict(record or {}, name=name, retries=retries or 0, claim=held)
