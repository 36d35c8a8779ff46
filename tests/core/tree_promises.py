"""What a saga with branches, choices, loops and waits has to keep to, beside all other sagas.

What a node sees of the context must not depend on the order in which the branches of a group end.
So each step of a walk returns a digest of all that it sees, and whatever was seen at one place is
compared with what is seen there on every other way on which choices and waits ended the same.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from celery_saga.core import events as ev
from celery_saga.core.context.data import Values
from celery_saga.core.decide.transitions import signal_named
from celery_saga.core.execution import SagaExecution, SagaStatus, StepRef, StepStatus
from celery_saga.core.plan import (
    Choice,
    ForEach,
    Path,
    Plan,
    PlanStep,
    Sleep,
    Wait,
)
from celery_saga.core.plan.nodes import children, runs_together
from tests.core.worlds import COMPENSATION, FORWARD, Body, World
from tests.invariants import Invariant

#: What a node sees: each key with its value as JSON.
Seen = Mapping[str, str]

#: What choices, waits and loops came to.
Answers = frozenset[tuple[Path, object]]

_ENDED = frozenset(
    {StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.UNKNOWN, StepStatus.COMPENSATING}
)

#: A key that every step writes, with an equal value, and every compensation with another one.
SHARED = "shared"


def leaves_of(plan: Plan, values: Mapping[str, Any] | None, path: Path = ()) -> Iterator[Path]:
    """Paths of the steps, conditions and waits, of all alternatives, and of each item of a loop."""
    node = plan.at(path)
    if isinstance(node, PlanStep | Choice | Wait | Sleep):
        yield path
    count = len(children(node))
    if isinstance(node, ForEach):
        count = len((values or {})[str(node.over[0])])
    for place in range(count):
        yield from leaves_of(plan, values, (*path, place))


def update_of(execution: SagaExecution, path: Path, seen: Seen) -> dict[str, Any]:
    """What the step at ``path`` returns: a digest of what it sees, under a key of its own.

    It also writes another list of the same length over the list of a loop around it.
    """
    plan = execution.plan
    digest = zlib.crc32(repr((path, sorted(seen.items()))).encode())
    update: dict[str, Any] = {plan.at(path).name: digest, SHARED: 1}
    for depth in range(len(path)):
        node = plan.at(path[:depth])
        if isinstance(node, ForEach):
            update[str(node.over[0])] = ["changed"] * (execution.steps[path[:depth]].chosen or 0)
    return update


def seen_at(execution: SagaExecution, path: Path) -> Seen:
    """What the node at ``path`` sees of the context."""
    return _texts(execution.view(path))


def _texts(values: Values) -> Seen:
    return {key: values.text(key) for key in values}


class TreePromises:
    """Holds what happens to one saga against what was seen of it on other ways.

    Args:
        plan: of the saga.
        require: gets each invariant, whether it holds, and what is the case if it does not.
    """

    def __init__(self, plan: Plan, require: Callable[[Invariant, object, str], None]) -> None:
        self._plan, self._require = plan, require
        self._views: dict[tuple[Path, Answers], Seen] = {}
        self._lists: dict[tuple[Path, Answers], Any] = {}

    # What may be active at the same time.

    def check(self, before: SagaExecution, after: SagaExecution) -> None:
        """What holds in each state, and of each change."""
        for one, other in itertools.combinations(after.active, 2):
            apart = one.path != other.path and may_be_together(self._plan, one, other)
            text = f"{one} and {other} are outstanding"
            self._require(Invariant.ONE_ACTIVE_STEP, apart, text)
        self._check_journal(after)
        if after.rollback_reason is not None:
            self._check_stopped(after)
        for path, new in after.steps.items():
            old, node = before.steps[path], self._plan.at(path)
            if new is not old:
                self._check_chosen(path, old.chosen, new.chosen)
            if isinstance(node, Choice) and new.epoch > old.epoch:
                text = f"condition {path} was asked after it was answered"
                self._require(Invariant.ONE_ANSWER, old.chosen is None, text)
            if isinstance(node, ForEach) and old.chosen is None and new.chosen is not None:
                items = after.view(path)[str(node.over[0])]
                self._lists.setdefault((path, self._answers(after, path)), items)
        settled = after.status is SagaStatus.COMPLETED and not before.settled
        if settled and after.resolved_at is None:
            self._check_seen(after, ())

    def _check_journal(self, after: SagaExecution) -> None:
        journal = after.journal
        wanted = {
            path
            for path, step in after.steps.items()
            if step.effect and self._plan.step(path).compensation is not None
        }
        same = len(journal) == len(set(journal)) and set(journal) == wanted
        text = f"the journal has {journal}, and {sorted(wanted)} have effects"
        self._require(Invariant.JOURNAL, same, text)

    def _check_stopped(self, after: SagaExecution) -> None:
        forward = [ref for ref in after.active if ref.direction is FORWARD]
        idle = [ref for ref in forward if after.steps[ref.path].claim is None]
        self._require(Invariant.BRANCHES_STOP, not idle, f"{idle} may still be claimed")
        waiting = [path for path, step in after.steps.items() if step.status is StepStatus.WAITING]
        self._require(Invariant.BRANCHES_STOP, not waiting, f"{waiting} still wait")

    def _check_chosen(self, path: Path, old: int | None, new: int | None) -> None:
        loop = isinstance(self._plan.at(path), ForEach)
        same = old is None or old == new
        invariant = Invariant.ITEMS_FIXED if loop else Invariant.ONE_ANSWER
        self._require(invariant, same, f"what {path} has chosen changed from {old} to {new}")

    # What follows what.

    def after(
        self,
        world: World,
        then: World,
        event: ev.Event,
        body: Body | None,
        commands: tuple[ev.Command, ...],
    ) -> World:
        """The world after an event, with the order in which steps have ended."""
        before, after = world.execution, then.execution
        for command in commands:
            if isinstance(command, ev.Dispatch) and before.ref(command.ref.path) != command.ref:
                self._check_sent(before, after, command.ref)
        for path, new in after.steps.items():
            node, old = self._plan.at(path), before.steps[path]
            if isinstance(node, Wait | Sleep) and new is not old:
                self._check_wait(before, after, event, path)
        return self._with_end(world, then, event, body)

    def _check_sent(self, before: SagaExecution, after: SagaExecution, ref: StepRef) -> None:
        path = ref.path
        if ref.direction is COMPENSATION:
            return self._check_inputs(before, after, path)
        text = f"{ref} was sent though the saga rolls back"
        self._require(Invariant.BRANCHES_STOP, after.rollback_reason is None, text)
        text = f"{path} was sent again though it has ended"
        over = before.steps[path].status in (StepStatus.SUCCEEDED, StepStatus.SKIPPED)
        self._require(Invariant.JOINED_ONCE, not over, text)
        for other, step in after.steps.items():
            under_way = after.ref(other) is not None or step.status is StepStatus.WAITING
            early = under_way and self._plan.ends_before(other, path)
            self._require(Invariant.JOINED_ONCE, not early, f"{path} was sent before {other} ended")
        for depth in range(len(path)):
            node, chosen = self._plan.at(path[:depth]), after.steps[path[:depth]].chosen
            if isinstance(node, Choice | Wait):
                text = f"{path} was sent though {chosen} was chosen"
                self._require(Invariant.ONE_ANSWER, chosen == path[depth], text)
        return None

    def _check_wait(
        self, before: SagaExecution, after: SagaExecution, event: ev.Event, path: Path
    ) -> None:
        """It ends by its signal, which is used up then, or at its time and not before."""
        old, new, node = before.steps[path], after.steps[path], self._plan.at(path)
        ended = new.status is StepStatus.SUCCEEDED and old.status is not StepStatus.SUCCEEDED
        timed_out = new.chosen == 0 and old.chosen is None
        failed = new.status is StepStatus.FAILED and old.status is StepStatus.WAITING
        if isinstance(node, Wait) and ended and new.chosen is None:
            known = signal_named(before, self._plan.signal_of(path))
            was_there = known is not None and known.payload is not None
            comes = isinstance(event, ev.SignalReceived)
            text = f"wait {path} ended without its signal"
            self._require(Invariant.WAITS, was_there or comes, text)
            now = signal_named(after, self._plan.signal_of(path))
            used = now is not None and now.payload is None
            self._require(Invariant.WAITS, used, f"the signal of {path} may be used again")
        elif timed_out or failed or (isinstance(node, Sleep) and ended):
            due = old.not_before is not None and event.at >= old.not_before
            text = f"wait {path} ended before its time"
            self._require(Invariant.WAITS, due or after.rollback_reason is not None, text)

    def _with_end(self, world: World, then: World, event: ev.Event, body: Body | None) -> World:
        """Has the path of a step that has ended moved to the end of the order."""
        before, ref = world.execution, getattr(event, "ref", None)
        if ref is None or ref.direction is COMPENSATION:
            return then
        path, others = ref.path, tuple(each for each in then.ended if each != ref.path)
        if body is None:  # it has failed before it began
            over = before.ref(path) == ref and then.execution.steps[path].status in _ENDED
            return then._replace(ended=(*others, path)) if over else then
        claim = before.steps[path].claim
        if claim is None or claim.token != body.token or before.ref(path) != body.ref:
            reports = isinstance(event, ev.StepSucceeded) or getattr(event, "effect", False)
            return then._replace(ended=others) if reports else then
        if then.execution.steps[path].status in _ENDED:
            return then._replace(ended=(*others, path))
        first = path not in then.ended and then.truth[path].debt is not None
        return then._replace(ended=(*others, path)) if first else then  # it is tried again

    def compensated_first(self, world: World, other: Path, path: Path) -> bool:
        """Whether ``other`` has to be compensated before ``path``, if it has to be."""
        if self._plan.independent(path, other):
            return False
        if self._plan.ends_before(path, other):
            return True
        if self._plan.ends_before(other, path):
            return False
        order = world.ended  # they are in branches of one group
        late = world.truth[other].late or world.truth[path].late
        known = other in order and path in order and not late
        return known and order.index(other) > order.index(path)

    # What is seen of the context.

    def begins(self, execution: SagaExecution, ref: StepRef) -> None:
        """A body is about to run, and sees the context."""
        if ref.direction is FORWARD:
            self._check_seen(execution, ref.path)
            self._check_items(execution, ref.path)

    def _check_seen(self, execution: SagaExecution, path: Path) -> None:
        seen = seen_at(execution, path)
        known = self._views.setdefault((path, self._answers(execution, path)), seen)
        odd = {key for key in {*known, *seen} if known.get(key) != seen.get(key)}
        text = f"what {path} sees of {sorted(odd)} depends on the order of other branches"
        self._require(Invariant.SCOPES, not odd, text)

    def _check_items(self, execution: SagaExecution, path: Path) -> None:
        for depth in range(len(path)):
            node = self._plan.at(path[:depth])
            if isinstance(node, ForEach):
                inside = execution.view(path[: depth + 1])
                items = self._lists.get((path[:depth], self._answers(execution, path[:depth])))
                same = items is not None and inside[node.item] == items[path[depth]]
                text = f"the items of {path[:depth]} have changed"
                self._require(Invariant.ITEMS_FIXED, same, text)

    def _check_inputs(self, before: SagaExecution, after: SagaExecution, path: Path) -> None:
        """A compensation sees its step's result, and the context as it was for its step."""
        start = self._views.get((path, self._answers(after, path)))
        if start is None:
            return  # the step was never begun: its message was lost without end
        reads = self._plan.step(path).later_reads
        if after.steps[path].compensation_round:
            reads -= {SHARED}  # its own compensation has written it
        inputs = after.inputs_of(path, COMPENSATION)
        own = _texts(Values(update_of(before, path, start)))
        succeeded = before.steps[path].status is StepStatus.SUCCEEDED
        for key in reads:
            found = inputs.text(key) if key in inputs else None
            allowed = {own.get(key, start.get(key))}
            if not succeeded:  # its result may not be known
                allowed |= {start.get(key), *([None] if key in own else [])}
            text = f"the compensation of {path} reads {found} as {key}, not {allowed}"
            self._require(Invariant.INPUTS_AS_OF_STEP, found in allowed, text)

    def _answers(self, execution: SagaExecution, path: Path) -> Answers:
        """What was chosen before the node at ``path`` and around it; at the end, all of it."""
        return frozenset(
            (other, (step.chosen, step.status is StepStatus.SKIPPED))
            for other, step in execution.steps.items()
            if (step.chosen is not None or step.status is StepStatus.SKIPPED)
            and other != path
            and (path[: len(other)] == other or not path or self._plan.ends_before(other, path))
        )


def may_be_together(plan: Plan, one: StepRef, other: StepRef) -> bool:
    """Whether two dispatches may be active at the same time."""
    if one.direction is not other.direction:
        return False
    if one.direction is COMPENSATION:
        return plan.independent(one.path, other.path)
    depth = _parting(one.path, other.path)
    return depth is not None and runs_together(plan.at(one.path[:depth]))


def _parting(one: Path, other: Path) -> int | None:
    """How deep two paths go the same way; ``None``: one is around the other."""
    pairs = zip(one, other, strict=False)
    return next((depth for depth, (a, b) in enumerate(pairs) if a != b), None)
