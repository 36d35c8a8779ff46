"""Known bugs that a test puts into the engine; no switch for them exists in the engine itself.

A mutant that no checker notices is a gap of the checker. Each names the invariant that it breaks,
and the checker that has to say so: the simulator, within so many seeds, or the walk through all
states of one small saga.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from celery_saga.core import events as ev
from celery_saga.core.context.joins import items_at
from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.context.scoped import Scope
from celery_saga.core.decide import _HANDLERS
from celery_saga.core.decide.claims import claimed
from celery_saga.core.decide.failing import follow_up
from celery_saga.core.decide.forward import _OVER, _one_less, _until, begin, over
from celery_saga.core.decide.late_effects import _compensate_again, late_effect
from celery_saga.core.decide.operators import request_rollback
from celery_saga.core.decide.outcomes import current
from celery_saga.core.decide.overdue import (
    _callbacks_left,
    _notified_again,
    most_resends,
    on_unclaimed,
)
from celery_saga.core.decide.policy import Place, place_of
from celery_saga.core.decide.rollback import (
    _without_unclaimed,
    compensation_failed,
    continue_rollback,
    start_rollback,
)
from celery_saga.core.decide.transitions import (
    call_of,
    check_at,
    past_pivot,
    send,
    stuck,
    with_possible_effect,
    with_signal,
)
from celery_saga.core.execution import (
    Claim,
    Direction,
    Failure,
    SagaExecution,
    SagaStatus,
    SagaStepExecution,
    StepRef,
    StepStatus,
)
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.plan import Choice, ForEach, Path, Plan
from celery_saga.core.recovery.failure_detector import Steadiness
from celery_saga.core.recovery.policy import RecoveryPolicy
from celery_saga.core.state import Signal
from celery_saga.core.steps import Steps
from celery_saga.stores.memory import MemoryStore
from tests.core.tree_shapes import Shape
from tests.core.worlds import Bounds
from tests.invariants import Invariant

FORWARD, COMPENSATION = Direction.FORWARD, Direction.COMPENSATION

NOTHING = Bounds(0, 0, 0, 0)

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Way:
    """A walk through all states of one saga.

    Args:
        shape: a text of :mod:`tests.core.scenario`, or a tree of :mod:`tests.core.tree_shapes`.
    """

    shape: Shape
    bounds: Mapping[str, int] = field(default_factory=dict)
    result: bool = False


@dataclass(frozen=True)
class Mutant:
    """A known bug.

    Args:
        breaks: the invariant that a checker has to name.
        seeds: within so many the simulator finds it; 0: it is not asked.
        way: on this the walk finds it; ``None``: it is not asked.
    """

    name: str
    put_in: Callable[[Patch], None]
    breaks: Invariant
    seeds: int
    way: Way | None


MUTANTS: list[Mutant] = []


def mutant(
    breaks: Invariant, *, seeds: int = 0, way: Way | None = None
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Takes a function that puts a bug into the engine into the list."""

    def note(put_in: Callable[[Patch], None]) -> Callable[[Patch], None]:
        name = put_in.__name__.replace("_", " ")
        MUTANTS.append(Mutant(name, put_in, breaks, seeds, way))
        return put_in

    return note


def way(shape: Shape, *, result: bool = False, **bounds: int) -> Way:
    """A walk with nothing but what is named."""
    return Way(shape, bounds, result)


def instead(patch: Patch, original: Callable[..., Any], other: Callable[..., Any]) -> None:
    """Put ``other`` in the place of a function of the engine, wherever that was imported."""
    found = 0
    for name, module in list(sys.modules.items()):
        ours = name.startswith(("celery_saga", "tests.")) and name != __name__
        for key, value in list(vars(module).items()) if ours else ():
            if value is original:
                patch.setattr(module, key, other)
                found += 1
    assert found, f"nothing uses {original}"


def answer(
    patch: Patch,
    event: type,
    other: Callable[[Callable[..., ev.Decision], SagaExecution, Any], ev.Decision],
) -> None:
    """Have ``other`` answer to a kind of event; it is given the real answer as a function."""
    real = _HANDLERS[event]
    patch.setitem(_HANDLERS, event, lambda execution, it: other(real, execution, it))


# Steps and claims.


@mutant(Invariant.ONE_ACTIVE_STEP, seeds=100, way=way("a b c"))
def two_compensations_at_once(patch: Patch) -> None:
    def send_two(
        execution: SagaExecution, path: Path, direction: Direction, at: float
    ) -> ev.Decision:
        decision = send(execution, path, direction, at)
        below = [each for each in execution.journal if each != path]
        if direction is FORWARD or not below:
            return decision
        more = send(decision.execution, below[-1], direction, at)
        return ev.Decision(more.execution, decision.commands + more.commands)

    instead(patch, send, send_two)


@mutant(Invariant.CLAIM_BEFORE_BODY, seeds=100, way=way("a"))
def a_duplicate_gets_the_claim(patch: Patch) -> None:
    def give(execution: SagaExecution, ref: StepRef, claim: Claim) -> SagaExecution | None:
        if execution.ref(ref.path[0]) == ref:
            execution = execution.with_step(ref.path[0], claim=None)
        return claimed(execution, ref, claim)

    instead(patch, claimed, give)


@mutant(Invariant.CLAIM_BEFORE_BODY, seeds=200, way=way("a", voids=1))
def a_stale_message_gets_the_claim(patch: Patch) -> None:
    def give(execution: SagaExecution, ref: StepRef, claim: Claim) -> SagaExecution | None:
        newest = execution.ref(ref.path[0])
        same = newest is not None and newest.direction is ref.direction
        return claimed(execution, newest if same and newest else ref, claim)

    instead(patch, claimed, give)


@mutant(Invariant.CLAIM_FOR_REPORT, seeds=1000, way=way("a", voids=1, zombies=1))
def a_report_without_the_claim_counts(patch: Patch) -> None:
    def anybody(execution: SagaExecution, event: Any) -> SagaStepExecution | None:
        step = execution.at_step(event.ref)
        return step if step and execution.ref(event.ref.path[0]) == event.ref else None

    instead(patch, current, anybody)


@mutant(Invariant.CLAIM_KEPT, seeds=2000, way=way("a"))
def a_claim_without_its_worker_instance(patch: Patch) -> None:
    """What any worker's main process says of a step ends the claim of another worker's."""

    def any_instance(execution: SagaExecution, event: Any) -> SagaStepExecution | None:
        step = execution.at_step(event.ref)
        if step and step.claim and not getattr(event, "token", "") and hasattr(event, "instance"):
            event = replace(event, instance=step.claim.instance)
        return current(execution, event)

    instead(patch, current, any_instance)


@mutant(Invariant.CLAIM_KEPT, seeds=600)
def claims_are_reclaimed_after_a_standstill(patch: Patch) -> None:
    """Then all worker instances look dead to the first heartbeat."""
    patch.setattr(Steadiness, "is_steady", lambda self, policy: True)


@mutant(Invariant.CLAIM_KEPT, seeds=600)
def a_pause_between_heartbeats_is_not_noticed(patch: Patch) -> None:
    patch.setattr(RecoveryPolicy, "gap", math.inf)


@mutant(Invariant.CLAIM_KEPT, seeds=1000)
def a_leap_of_the_stores_clock_is_not_noticed(patch: Patch) -> None:
    patch.setattr(RecoveryPolicy, "clock_leap", math.inf)


@mutant(Invariant.NEW_EPOCH, seeds=100, way=way("a"))
def a_dispatch_under_an_old_epoch(patch: Patch) -> None:
    def send_so(
        execution: SagaExecution, path: Path, direction: Direction, at: float
    ) -> ev.Decision:
        old, decision = execution.steps[path], send(execution, path, direction, at)
        if not old.epoch:
            return decision
        ref = StepRef(path, direction, old.epoch)
        return ev.Decision(decision.execution.sent(ref), (ev.Dispatch(ref),))

    instead(patch, send, send_so)


@mutant(Invariant.REVISION, seeds=100)
def no_fence(patch: Patch) -> None:
    """A checkpoint replaces whatever is there."""
    save = MemoryStore.save

    def overwrite(
        self: MemoryStore, before: SagaExecution, after: SagaExecution, *args: Any, **kwargs: Any
    ) -> SagaExecution | None:
        newest = self.load(before.saga_id)
        if newest is not None:
            before = replace(before, revision=newest.revision)
        return save(self, before, after, *args, **kwargs)

    patch.setattr(MemoryStore, "save", overwrite)


@mutant(Invariant.SAVED_BEFORE_SENT, seeds=20)
def published_before_it_is_saved(patch: Patch) -> None:
    write = Orchestrator._write

    def publish_first(self: Orchestrator, call: Any, batch: Any, *args: Any) -> Any:
        for _, message in batch.messages:
            self.publisher.publish(message)
        return write(self, call, replace(batch, messages=[], left=[], carried=()), *args)

    patch.setattr(Orchestrator, "_write", publish_first)


@mutant(Invariant.DECIDE_IS_TOTAL, way=way("a b c"))
def an_unread_step_looks_like_a_new_one(patch: Patch) -> None:
    read = Steps.__getitem__

    def guess(self: Steps, place: Any) -> Any:
        try:
            return read(self, place)
        except NotLoaded:
            return SagaStepExecution("?")

    patch.setattr(Steps, "__getitem__", guess)
    patch.setattr(Steps, "paths", lambda self: [(place,) for place in range(len(self))])


# Compensations.


@mutant(Invariant.REVERSE_ORDER, seeds=100, way=way("a b"))
def the_order_is_not_reversed(patch: Patch) -> None:
    def first(execution: SagaExecution) -> list[Path]:
        left = [path for path in execution.journal if execution.steps[path].needs_compensation]
        return [] if execution.active else left[:1]

    patch.setattr(SagaExecution, "next_compensations", property(first))


@mutant(Invariant.NO_COMPENSATION_UNDER_CLAIM, seeds=400, way=way("a b", cancels=1))
def a_cancel_does_not_wait_for_the_claim(patch: Patch) -> None:
    def at_once(execution: SagaExecution, failure: Failure, at: float) -> ev.Decision:
        ref = execution.first_active
        claimed_now = ref is not None and execution.steps[ref.path[0]].claim is not None
        if ref is None or not claimed_now or execution.direction is COMPENSATION:
            return request_rollback(execution, failure, at)
        execution = execution.ended(ref.path[0], status=StepStatus.UNKNOWN, effect=True)
        return start_rollback(replace(execution, deadline=None), failure, at)

    instead(patch, request_rollback, at_once)


@mutant(Invariant.PIVOT, seeds=600, way=way("a b* c"))
def the_pivot_is_ignored(patch: Patch) -> None:
    instead(patch, past_pivot, lambda execution: False)
    instead(patch, place_of, lambda plan, path: Place.BEFORE)


@mutant(Invariant.COMPENSATED_FOR_A_REASON, seeds=100, way=way("a"))
def a_step_that_failed_cleanly_is_compensated(patch: Patch) -> None:
    answer(
        patch,
        ev.StepFailed,
        lambda real, execution, event: real(execution, replace(event, effect=True)),
    )


@mutant(Invariant.COMPENSATED, seeds=300, way=way("a!", voids=1))
def an_unknown_outcome_is_not_compensated(patch: Patch) -> None:
    instead(patch, with_possible_effect, lambda execution, path, began: execution)


@mutant(Invariant.COMPENSATED, seeds=600, way=way("a", voids=1))
def a_second_run_that_declines_hides_the_first(patch: Patch) -> None:
    """The classic half-done saga: the first attempt went through, and its process was lost."""

    def forget(real: Any, execution: SagaExecution, event: ev.StepFailed) -> ev.Decision:
        if execution.ref(event.ref.path[0]) != event.ref or event.ref.direction is COMPENSATION:
            return real(execution, event)
        without = execution.with_step(event.ref.path[0], effect=False)
        decision = real(without, event)
        return ev.Decision(execution) if decision.execution is without else decision

    answer(patch, ev.StepFailed, forget)


@mutant(Invariant.AT_MOST_ONCE, seeds=200, way=way("a!", voids=1))
def an_early_ack_step_is_run_again(patch: Patch) -> None:
    def late_ack(execution: SagaExecution, path: Path, direction: Direction) -> Any:
        return replace(call_of(execution, path, direction), rerun=True)

    instead(patch, call_of, late_ack)


@mutant(Invariant.LATE_EFFECT, seeds=2000, way=way("a!", voids=1, zombies=1))
def a_late_effect_is_ignored(patch: Patch) -> None:
    instead(patch, late_effect, lambda execution, event: ev.Decision(execution))


@mutant(Invariant.LATE_EFFECT, way=way("a!", voids=1, zombies=1))
def a_late_effect_under_a_running_compensation_is_forgotten(patch: Patch) -> None:
    def forget(real: Any, execution: SagaExecution, event: ev.StepSucceeded) -> ev.Decision:
        if event.ref.direction is COMPENSATION and execution.steps[event.ref.path[0]].late_effect:
            execution = execution.with_step(event.ref.path[0], late_effect=False)
        return real(execution, event)

    answer(patch, ev.StepSucceeded, forget)


@mutant(Invariant.LATE_EFFECT, seeds=100, way=way("a b", voids=1))
def each_dispatch_of_a_compensation_is_a_round(patch: Patch) -> None:
    def send_anew(
        execution: SagaExecution, path: Path, direction: Direction, at: float
    ) -> ev.Decision:
        step = execution.steps[path]
        if direction is COMPENSATION and step.forward_epoch:
            execution = execution.with_step(path, compensation_round=step.compensation_round + 1)
        return send(execution, path, direction, at)

    instead(patch, send, send_anew)


@mutant(Invariant.IDEMPOTENCY_KEY, seeds=400)
def no_round(patch: Patch) -> None:
    def same(self: SagaExecution, index: int, direction: Direction) -> str:
        return f"{self.saga_id}/{self.steps[index].name}/{direction}"

    patch.setattr(SagaExecution, "idempotency_key", same)


@mutant(Invariant.IDEMPOTENCY_KEY, seeds=100)
def a_key_for_each_epoch(patch: Patch) -> None:
    key = SagaExecution.idempotency_key

    def of_epoch(self: SagaExecution, index: int, direction: Direction) -> str:
        return f"{key(self, index, direction)}/{self.steps[index].epoch}"

    patch.setattr(SagaExecution, "idempotency_key", of_epoch)


@mutant(Invariant.CANCEL, seeds=600, way=way("a b", cancels=1))
def a_cancel_of_a_running_step_is_forgotten(patch: Patch) -> None:
    def onwards(execution: SagaExecution, path: Path, at: float) -> ev.Decision:
        wanted = execution.rollback_reason
        if wanted is None or path in ((), (len(execution.steps) - 1,)):
            return over(execution, path, at)
        decision = over(replace(execution, rollback_reason=None), path, at)
        return replace(decision, execution=replace(decision.execution, rollback_reason=wanted))

    instead(patch, over, onwards)


@mutant(Invariant.PAUSE, seeds=300, way=way("a b", pauses=1))
def a_pause_is_ignored(patch: Patch) -> None:
    def onwards(execution: SagaExecution, path: Path, at: float) -> ev.Decision:
        if execution.status is not SagaStatus.PAUSED:
            return begin(execution, path, at)
        decision = begin(replace(execution, status=SagaStatus.RUNNING), path, at)
        return replace(decision, execution=replace(decision.execution, status=SagaStatus.PAUSED))

    instead(patch, begin, onwards)


@mutant(Invariant.PAUSE, way=way("a b", pauses=1))
def a_step_ends_the_pause(patch: Patch) -> None:
    def onwards(execution: SagaExecution, path: Path, at: float) -> ev.Decision:
        if execution.status is SagaStatus.PAUSED:
            execution = replace(execution, status=SagaStatus.RUNNING)
        return over(execution, path, at)

    instead(patch, over, onwards)


# Ends.


@mutant(Invariant.COMPLETED, seeds=400, way=way("a! b", voids=1))
def an_unknown_outcome_counts_as_done(patch: Patch) -> None:
    def done(execution: SagaExecution, ref: StepRef, *how: Any, **more: Any) -> ev.Decision:
        decision = follow_up(execution, ref, *how, **more)
        step = decision.execution.steps[ref.path[0]]
        if ref.direction is COMPENSATION or step.ended_at is None or not step.effect:
            return decision
        execution = execution.with_step(
            ref.path[0], status=StepStatus.SUCCEEDED, ended_at=step.ended_at
        )
        return over(execution, ref.path, step.ended_at)

    instead(patch, follow_up, done)


@mutant(Invariant.STUCK, seeds=1000, way=way("a b c"))
def a_compensation_that_fails_stops_the_others(patch: Patch) -> None:
    def stop(execution: SagaExecution, path: Path, failure: Failure, at: float) -> ev.Decision:
        failed = StepStatus.COMPENSATION_FAILED
        ended = execution.ended(path, status=failed, not_before=None, compensation_error=failure)
        return stuck(ended, failure, at)

    instead(patch, compensation_failed, stop)


@mutant(Invariant.SETTLED_STAYS, way=way("a b!", voids=1, zombies=1))
def a_late_effect_takes_a_stuck_saga_up(patch: Patch) -> None:
    def carry_on(execution: SagaExecution, event: Any) -> ev.Decision:
        decision = _compensate_again(execution, event)
        if decision.execution.status is not SagaStatus.STUCK:
            return decision
        return continue_rollback(check_at(decision.execution, event.at + 4), event.at)

    instead(patch, _compensate_again, carry_on)


@mutant(Invariant.RESULT, seeds=20)
def a_result_is_published_before_it_is_saved(patch: Patch) -> None:
    batch = Orchestrator._batch

    def publish_first(self: Orchestrator, decision: ev.Decision, *args: Any) -> Any:
        if any(isinstance(each, ev.NotifyCallers) for each in decision.commands):
            self.results.publish(decision.execution)
        return batch(self, decision, *args)

    patch.setattr(Orchestrator, "_batch", publish_first)


@mutant(Invariant.RESULT, seeds=600)
def a_result_is_published_but_once(patch: Patch) -> None:
    instead(patch, _notified_again, lambda execution, at: ev.Decision(execution))


@mutant(Invariant.CALLERS, seeds=1000)
def callers_are_notified_of_each_end(patch: Patch) -> None:
    instead(patch, _callbacks_left, lambda execution, status: execution.callbacks)


# What has to continue.


@mutant(Invariant.SENT_AGAIN, seeds=100, way=way("a"))
def a_lost_message_is_never_sent_again(patch: Patch) -> None:
    def wait(
        execution: SagaExecution, step: SagaStepExecution, ref: StepRef, event: ev.Overdue
    ) -> ev.Decision:
        return ev.Decision(check_at(execution, event.at + 4))

    instead(patch, on_unclaimed, wait)


@mutant(Invariant.CAPS, way=way("a", losses=10))
def a_message_is_sent_again_without_end(patch: Patch) -> None:
    instead(patch, most_resends, lambda plan: 1_000_000)


@mutant(Invariant.CAPS, seeds=2000, way=way("a", voids=3))
def a_lost_step_is_run_again_without_end(patch: Patch) -> None:
    def uncapped(real: Any, execution: SagaExecution, event: ev.ClaimVoided) -> ev.Decision:
        plan = execution.plan
        without = replace(execution, plan=replace(plan, max_redeliveries=1_000_000))
        decision = real(without, event)
        if decision.execution is without:
            return ev.Decision(execution)
        return replace(decision, execution=replace(decision.execution, plan=plan))

    answer(patch, ev.ClaimVoided, uncapped)


@mutant(Invariant.SETTLES, seeds=20, way=way("a"))
def nothing_checks_again(patch: Patch) -> None:
    instead(patch, check_at, lambda execution, when: replace(execution, due_at=None))


# Starts.


@mutant(Invariant.ONE_SAGA, seeds=20)
def a_second_start_makes_a_second_saga(patch: Patch) -> None:
    create = MemoryStore.create

    def overwrite(self: MemoryStore, execution: SagaExecution, *args: Any, **kwargs: Any) -> Any:
        self.delete(execution.saga_id)
        return create(self, execution, *args, **kwargs)

    patch.setattr(MemoryStore, "create", overwrite)


# Trees.


@mutant(Invariant.JOINED_ONCE, way=way(("seq", ("par", ".", "."), ".")))
def the_first_branch_joins(patch: Patch) -> None:
    def last(execution: SagaExecution, path: Path) -> tuple[SagaExecution, bool]:
        return _one_less(execution, path)[0], True

    instead(patch, _one_less, last)


@mutant(Invariant.BRANCHES_STOP, way=way(("par", ".", ".")))
def an_unclaimed_message_of_a_branch_stays_valid(patch: Patch) -> None:
    instead(patch, _without_unclaimed, lambda execution: execution)


@mutant(Invariant.BRANCHES_STOP, way=way(("par", ("seq", ".", "."), ".")))
def a_branch_continues_when_another_has_failed(patch: Patch) -> None:
    def onwards(execution: SagaExecution, path: Path, at: float) -> ev.Decision:
        wanted = execution.rollback_reason
        if wanted is None or len(path) < 2:
            return over(execution, path, at)
        decision = over(replace(execution, rollback_reason=None), path, at)
        return replace(decision, execution=replace(decision.execution, rollback_reason=wanted))

    instead(patch, over, onwards)


@mutant(Invariant.JOURNAL, way=way(("par", ".", ".")))
def an_entry_leaves_the_journal_when_its_compensation_is_sent(patch: Patch) -> None:
    def forget(
        execution: SagaExecution, path: Path, direction: Direction, at: float
    ) -> ev.Decision:
        decision = send(execution, path, direction, at)
        if direction is FORWARD:
            return decision
        journal = tuple(each for each in execution.journal if each != path)
        return replace(decision, execution=replace(decision.execution, journal=journal))

    instead(patch, send, forget)


@mutant(Invariant.REVERSE_ORDER, way=way(("seq", ("par", ".", "."), ".")))
def compensations_in_the_order_of_the_plan(patch: Patch) -> None:
    def last(execution: SagaExecution) -> list[Path]:
        left = [path for path in execution.journal if execution.steps[path].needs_compensation]
        return [] if execution.active else sorted(left)[-1:]

    patch.setattr(SagaExecution, "next_compensations", property(last))


@mutant(Invariant.ONE_ANSWER, way=way(("if", ".")))
def a_condition_is_asked_after_its_alternative(patch: Patch) -> None:
    def ask(execution: SagaExecution, path: Path, node: Any, place: int, at: float) -> ev.Decision:
        return begin(execution, path, at)

    patch.setitem(_OVER, Choice, ask)  # type: ignore[index]


@mutant(Invariant.ITEMS_FIXED, way=way(("each", ".")))
def the_list_of_a_loop_is_read_at_each_item(patch: Patch) -> None:
    def read(execution: SagaExecution, path: Path, at: float) -> ev.Decision:
        loop = execution.plan.at(path[:-1])
        if isinstance(loop, ForEach):
            items = items_at(execution.view(path[:-1]), loop.over)
            execution = execution.with_values({loop.item: items[path[-1]]}, path=path)
        return begin(execution, path, at)

    instead(patch, begin, read)


@mutant(Invariant.SCOPES, way=way(("par", ("seq", ".", "."), ".")))
def branches_write_into_the_context_around_them(patch: Patch) -> None:
    patch.setattr(Plan, "_scopes_of", lambda self, path: (Scope(""),))


@mutant(Invariant.INPUTS_AS_OF_STEP, way=way(("par", ("seq", ".", "."), ".")))
def a_compensation_reads_the_context_as_it_is_now(patch: Patch) -> None:
    patch.setattr(SagaExecution, "inputs_of", lambda self, path, direction: self.view(path))


@mutant(Invariant.WAITS, way=way(("par", "sleep", ".")))
def a_sleep_ends_at_the_first_check(patch: Patch) -> None:
    instead(patch, _until, lambda execution, path, at: None)


@mutant(Invariant.WAITS, way=way("limited"))
def a_signal_is_not_used_up(patch: Patch) -> None:
    def keep(execution: SagaExecution, signal: Signal) -> SagaExecution:
        return with_signal(execution, signal) if signal.payload else execution

    instead(patch, with_signal, keep)
