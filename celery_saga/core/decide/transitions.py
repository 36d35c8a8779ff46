"""The moves that all transitions are made of: send a step, fail, roll back, end.

What comes next on the way forward is in :mod:`celery_saga.core.decide.forward`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from celery_saga.core.context.data import values_of
from celery_saga.core.context.scoped import lookups, stored_name
from celery_saga.core.events import Command, Decision, Dispatch, NotifyCallers, StepSucceeded
from celery_saga.core.execution import (
    Direction,
    Failure,
    Note,
    SagaExecution,
    SagaStatus,
    StepRef,
    StepStatus,
)
from celery_saga.core.plan import Call, Choice, Path, Plan, RemoteStep
from celery_saga.core.recovery.policy import POLICY
from celery_saga.core.state import Signal, replace
from celery_saga.errors import SagaError, needs

#: Seconds from one check of a live saga to the next; the second figure: while its step runs.
CHECK_INTERVAL, CLAIMED_CHECK_INTERVAL = POLICY.check_interval, POLICY.claimed_check_interval

#: The same while it waits for a signal, without a timeout.
WAIT_CHECK_INTERVAL = POLICY.wait_check_interval

#: The least seconds from one start of a step to the next once it was lost twice, doubling with each
#: further loss up to the second figure.
LOST_DELAY, LOST_DELAY_MAX = POLICY.lost_delay, POLICY.lost_delay_max


def call_of(execution: SagaExecution, path: Path, direction: Direction) -> Call:
    """The task of a step in ``direction``; a compensation is asked for only where there is one.

    As its retries have changed it, if it is that direction in which the step is being run. That of
    a choice is the next condition that was not answered, and of a remote step with a reply what
    handles it.
    """
    node, record = execution.plan.at(path), execution.steps[path]
    if isinstance(node, Choice):
        call: Call | None = node.cases[min(record.asked, len(node.cases) - 1)].condition
    else:
        step = execution.plan.step(path)
        call = step.compensation
        if direction is Direction.FORWARD:
            call = step.handler(record.reply_status) or step.action
    assert call is not None
    if record.revised is None or (record.forward_epoch > 0) is (direction is Direction.FORWARD):
        return call
    return call.revised(record.revised)


def noted(
    execution: SagaExecution, at: float, what: str, by: str = "", detail: str = ""
) -> SagaExecution:
    """The execution with one more line of history, which may not have been read."""
    more = (Note(at, what, by, detail),)
    return replace(execution, history=execution.history + more)


def check_at(execution: SagaExecution, when: float) -> SagaExecution:
    """Due for a check at ``when``, or at the deadline if that comes first."""
    deadline = execution.deadline
    return replace(execution, due_at=when if deadline is None else min(when, deadline))


def check_by(execution: SagaExecution, when: float) -> SagaExecution:
    """Due for a check at ``when`` at the latest; an earlier check stays."""
    due = execution.due_at
    return execution if due is not None and due <= when else check_at(execution, when)


def due_soon(execution: SagaExecution, at: float) -> SagaExecution:
    """Due for a check as soon as one that waits for a message; an earlier check stays."""
    return check_by(execution, at + CHECK_INTERVAL)


def signal_named(execution: SagaExecution, name: str) -> Signal | None:
    """The signal of that name, if it was sent."""
    return next((each for each in execution.signals if each.name == name), None)


def with_signal(execution: SagaExecution, signal: Signal) -> SagaExecution:
    """The execution with a signal in the place of the one of its name."""
    others = (each for each in execution.signals if each.name != signal.name)
    return replace(execution, signals=(*others, signal))


def past_pivot(execution: SagaExecution) -> bool:
    """Whether the pivot or commit tasks were dispatched: nothing is rolled back from then on."""
    pivot, commits = execution.plan.pivot, execution.plan.commits
    if pivot is not None and execution.steps[pivot].epoch > 0:
        return True
    return commits is not None and execution.steps[commits].status is not StepStatus.PENDING


def with_result(execution: SagaExecution, event: StepSucceeded) -> SagaExecution:
    """The execution with what a step did to its context."""
    return with_changes(execution, event.ref.path, event.update, event.remove)


def with_changes(
    execution: SagaExecution, path: Path, update: Mapping[str, Any], remove: Collection[str] = ()
) -> SagaExecution:
    """The execution with what a node did to its context.

    What the compensations of other steps read stays what it was for them: a value that is replaced
    or removed is kept in their records, if they may still run. Most changes concern none of them,
    and nothing else of the saga is looked at then. Of a value that each step replaces, only the
    record of the step before is looked at.
    """
    after, plan, unchanged = execution.with_values(update, remove, path), execution.plan, execution
    scope = plan.scopes(path)[0].id
    for key in [*update, *remove]:
        before, readers = execution, _readers(execution, path, key)
        if not readers or _same_text(execution, after, stored_name(scope, key)):
            continue
        for reader in readers:
            for name in [key] if plan.linear else _names_of(plan, reader, scope, key):
                execution = _keeping(execution, after, reader, name)
        if execution is not before and plan.linear and execution.direction is Direction.FORWARD:
            replaced = {**(execution.replaced or {}), key: path[0]}
            execution = replace(execution, replaced=replaced)
    if execution is not unchanged:
        after = replace(after, steps=execution.steps, replaced=execution.replaced)
    return after


def _names_of(plan: Plan, reader: Path, scope: str, key: str) -> list[str]:
    """The names by which the later tasks of a step read a key of a scope."""
    scopes, reads = plan.scopes(reader), plan.step(reader).later_reads
    return [name for name in reads if (scope, key) in [(s.id, k) for s, k in lookups(scopes, name)]]


def _same_text(before: SagaExecution, after: SagaExecution, name: str) -> bool:
    """Whether a stored value was replaced by an equal one: nothing is to be kept of it."""
    old, new = values_of(before.values), values_of(after.values)
    return name in old and name in new and old.text(name) == new.text(name)


def _readers(execution: SagaExecution, path: Path, key: str) -> Sequence[Path]:
    """The other steps whose later tasks read a key by that name, and may still run.

    Without those that have kept what the key was, when another step replaced it before.
    """
    plan, forward = execution.plan, execution.direction is Direction.FORWARD
    if forward and plan.pivot is not None and plan.commits is None and path >= plan.pivot:
        return []
    static = plan.readers.get(key, ())
    if plan.linear and forward:
        first = ((execution.replaced or {}).get(key, 0),)
        return static[bisect_left(static, first) : bisect_left(static, path)]
    if plan.linear:
        return [each for each in static if each != path and execution.steps[each].epoch > 0]
    own = plan.first_of(path)
    if all(each == own for each in plan.readers_in(path, static)):
        return []  # no other step sees the scope into which it writes
    return [
        each
        for each, record in execution.steps.every()
        if each != path and record.epoch > 0 and plan.first_of(each) in static
    ]


def _keeping(
    execution: SagaExecution, after: SagaExecution, reader: Path, key: str
) -> SagaExecution:
    kept = execution.steps[reader].kept or {}
    if key in kept:
        return execution
    before, now = execution.view(reader), after.view(reader)
    old = before.text(key) if key in before else None
    if old == (now.text(key) if key in now else None):
        return execution
    return execution.with_step(reader, kept={**kept, key: old})


def own_result(execution: SagaExecution, event: StepSucceeded) -> dict[str, str | None]:
    """What a step's later tasks read of a result that may not be in the context any more."""
    reads = execution.plan.step(event.ref.path).later_reads
    update = values_of(event.update)
    merged = {key: update.text(key) for key in reads if key in update}
    return {**merged, **values_of(event.own).texts()}


def returned_keys(execution: SagaExecution, event: StepSucceeded) -> tuple[str, ...]:
    """The keys of a step's result that its compensation reads, where they have to be known.

    That is where another step, or the step for another item, may run the same task.
    """
    step = execution.plan.step(event.ref.path)
    if not step.own_keys or step.action.task not in execution.plan.repeated_tasks:
        return ()
    return tuple(sorted(key for key in step.own_keys if key in event.update or key in event.own))


def without_result(execution: SagaExecution, path: Path, status: StepStatus) -> SagaExecution:
    """The execution with the way forward of a step ended in ``status``, its result not known.

    If its effect is possible, its compensation gets nothing under a key of its own result: in the
    context is then what another step, or the same one for another item, has returned.
    """
    execution = execution.with_step(path, status=status)
    step, record = execution.plan.step(path), execution.steps[path]
    if not record.effect or not step.own_keys:
        return execution
    fixed = step.key if step.action.returns is None else step.action.returns
    own = {fixed} & step.own_keys
    if step.action.task in execution.plan.repeated_tasks:
        for other in execution.steps.paths():
            if execution.plan.step(other).action.task == step.action.task:
                own |= step.own_keys.intersection(execution.steps[other].returned)
    if own:
        kept = {**(record.kept or {}), **dict.fromkeys(sorted(map(str, own)))}
        execution = execution.with_step(path, kept=kept)
    return execution


def send(execution: SagaExecution, path: Path, direction: Direction, at: float) -> Decision:
    """Dispatch a step in a new epoch; its inputs are known to be there.

    Of a remote step that is its request, if that is known and has no reply.
    """
    step = execution.steps[path]
    forward = direction is Direction.FORWARD
    ref = StepRef(path, direction, step.epoch + 1)
    if step.open_request is not None:
        execution = _with_request(execution, path, forward, at)
        status = StepStatus.WAITING if forward else StepStatus.COMPENSATING
    else:
        status = StepStatus.RUNNING if forward else StepStatus.COMPENSATING
    execution = execution.sent(
        ref,
        status=status,
        forward_epoch=0 if forward else step.forward_epoch or step.epoch,
        retries=0,
        expected_at=at,
        republished=0,
        unclaimed=0,
        not_before=None,
        task_unknown_since=None,
        started_at=step.started_at if step.started_at is not None else at,
    )
    return Decision(due_soon(execution, at), (Dispatch(ref),))


def _with_request(execution: SagaExecution, path: Path, forward: bool, at: float) -> SagaExecution:
    """The execution with a request that is sent: from now on its effect may be there."""
    step, node = execution.steps[path], execution.plan.step(path)
    request = step.open_request
    assert request is not None
    assert isinstance(node, RemoteStep)
    until = at + node.timeout
    request = replace(request, until=until)
    execution = check_by(execution.with_step(path, request=request), until)
    if not forward:
        return execution
    return execution.with_step(
        path,
        effect=step.effect or not node.read_only,
        requests=(*step.requests, request.token),
    )


def run_again(
    execution: SagaExecution, path: Path, direction: Direction, at: float, began: float
) -> Decision:
    """Send a step once more whose outcome stayed unknown: at once the first time, then slower.

    Args:
        began: when the attempt that was lost started, store time.
    """
    if direction is Direction.FORWARD:
        execution = execution.with_step(path, status=StepStatus.WAITING)
    until = min(began, at) + _pace(execution.steps[path].lost)
    if until > at:
        return wait(execution, path, until)
    if execution.status is SagaStatus.PAUSED:
        return Decision(execution)
    return send(execution, path, direction, at)


def _pace(lost: int) -> float:
    return 0.0 if lost < 2 else min(LOST_DELAY_MAX, LOST_DELAY * 2.0 ** min(lost - 2, 30))


def wait(execution: SagaExecution, path: Path, until: float) -> Decision:
    """Nothing is sent for a step before ``until``; the sweep sends it then."""
    return Decision(check_by(execution.ended(path, not_before=until), until))


def deadline_failure(name: str) -> Failure:
    """The record of a deadline that passed before the step of that name ended."""
    return Failure("DeadlineExceeded", f"the deadline passed before step {name!r} ended", name)


def name_of_current(execution: SagaExecution) -> str:
    """The name of the step at which the run is; empty: there is none."""
    path = execution.current
    return "" if path is None else execution.plan.name_of(path)


def failure_of(error: SagaError, execution: SagaExecution, path: Path) -> Failure:
    """The record of an error of this library at a node."""
    kind, name = f"{SagaError.__module__}.{type(error).__name__}", execution.plan.name_of(path)
    return Failure(kind, str(error), name, arguments=error.args)


def missing_input(execution: SagaExecution, path: Path, key: str, call: Call) -> Failure:
    """The record of an input that the context lacks."""
    name = execution.plan.name_of(path)
    text = f"task {call.task!r} of step {name!r} {needs(key)}"
    known = (key, name, call.task)
    return Failure("celery_saga.errors.MissingInput", text, name, arguments=known)


def with_possible_effect(execution: SagaExecution, path: Path, began: bool) -> SagaExecution:
    """The execution with a step whose effect may be there, if it ``began`` and leaves any."""
    step = execution.steps[path]
    possible = began and not execution.plan.step(path).tasks_read_only
    return execution.with_step(path, effect=step.effect or possible)


def hold(execution: SagaExecution, failure: Failure) -> Decision:
    """A branch cannot continue, and nothing may be rolled back: see :func:`stuck_if_held`."""
    if execution.held is None:
        execution = replace(execution, held=failure, error=execution.error or failure)
    return Decision(execution)


def stuck_if_held(execution: SagaExecution, at: float) -> Decision:
    """Stuck, if a branch cannot continue and no other one does.

    The others continue first, to the join or until they cannot continue either.
    """
    failure = execution.held
    if failure is None or execution.active:
        return Decision(execution)
    if not execution.plan.linear and any(ready(execution)):
        return Decision(execution)  # it is paused, or waits for the next attempt of a step
    return stuck(execution, failure, at)


def ready(execution: SagaExecution) -> Iterator[Path]:
    """Paths of what comes next, without the branches that cannot continue."""
    ends = ended_branches(execution)
    return (path for path in execution.frontier() if path not in ends)


def ended_branches(execution: SagaExecution) -> list[Path]:
    """Paths of the nodes at which a branch cannot continue."""
    failed = (StepStatus.FAILED, StepStatus.UNKNOWN)
    return [path for path in execution.frontier() if execution.steps[path].status in failed]


def stuck(execution: SagaExecution, failure: Failure, at: float) -> Decision:
    """An operator is needed; both the first error and what keeps it from its end are kept."""
    execution = replace(
        execution,
        error=execution.error or failure,
        held=None,
        stuck_count=execution.stuck_count + 1,
    )
    execution = noted(execution, at, "stuck", detail=f"{failure.step}: {failure}")
    return end(execution, SagaStatus.STUCK, at)


def end(execution: SagaExecution, status: SagaStatus, at: float) -> Decision:
    """Settled: callers are notified; it is checked until its result is known to be stored.

    The deadline of a saga that is stuck holds again when it continues.
    """
    pending = execution.wants_result or execution.callbacks is not None
    execution = replace(
        execution,
        status=status,
        due_at=at + CHECK_INTERVAL if pending else None,
        deadline=execution.deadline if status is SagaStatus.STUCK else None,
        updated_at=at,
        result_pending=pending,
    )
    commands: tuple[Command, ...] = (NotifyCallers(status),)
    return Decision(execution, commands)
