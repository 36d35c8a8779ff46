"""The way forward through the tree of a plan.

A node is begun, and once it is over its parent says what is next::

    node        begun                                 when a node inside of it is over
    ----------  ------------------------------------  ------------------------------------------
    step        its task is sent                      -
    nested      its first node                        the next one; after the last its returns
    parallel    all branches                          after the last: their contexts are joined
    choice      its first condition is sent           it is over, too
    for_each    its first item, or all of them        the next item; after the last the lists
    wait        nothing: for a signal, or a time      after its timeout's branch: it is over, too
    sleep       nothing: for a time                   -
    commits     all commit tasks of steps that ran    after the last: it is over, too

A wait and a sleep send nothing, and no worker claims them. A wait ends by its signal, which may
have come before it, or by its timeout; both by their times, at which the sweep checks the saga.

Nothing is begun while the saga is paused, or once a rollback was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery_saga.core.context.data import Values, values_of
from celery_saga.core.context.joins import (
    items_at,
    joined,
    lists_of,
    returned,
    split_removed,
    values_in,
)
from celery_saga.core.decide.rollback import continue_rollback, start_rollback
from celery_saga.core.decide.transitions import (
    CHECK_INTERVAL,
    WAIT_CHECK_INTERVAL,
    call_of,
    check_by,
    deadline_failure,
    end,
    failure_of,
    hold,
    missing_input,
    past_pivot,
    ready,
    send,
    signal_named,
    with_changes,
    with_signal,
)
from celery_saga.core.events import Decision
from celery_saga.core.execution import Direction, Failure, SagaExecution, SagaStatus, StepStatus
from celery_saga.core.plan import (
    Choice,
    Commits,
    ForEach,
    NestedSaga,
    Node,
    Parallel,
    Path,
    PlanStep,
    RemoteStep,
    Sleep,
    Wait,
    dotted,
)
from celery_saga.core.state import replace
from celery_saga.errors import BadItems, ContextTooLarge, JoinConflict, SignalTimeout


def begin(execution: SagaExecution, path: Path, at: float) -> Decision:
    """Begin a node that comes next, or that has failed and is tried again."""
    if execution.rollback_reason is not None:
        return Decision(execution)
    deadline, ended = execution.deadline, path == execution.plan.commits
    if deadline is not None and at >= deadline and not ended and not past_pivot(execution):
        failure = deadline_failure(execution.plan.name_of(path))
        return start_rollback(execution, failure, at)
    if execution.status is SagaStatus.PAUSED:
        return Decision(execution)
    node = execution.plan.at(path)
    if execution.status is not SagaStatus.RUNNING:
        execution = replace(execution, status=SagaStatus.RUNNING)
    begun: Decision = _BEGIN[type(node)](execution, path, node, at)
    return begun


def _begin_task(execution: SagaExecution, path: Path, _: Node, at: float) -> Decision:
    call = call_of(execution, path, Direction.FORWARD)
    key = call.missing(execution.inputs_of(path, Direction.FORWARD))
    if key is None:
        return send(execution, path, Direction.FORWARD, at)
    return fail(execution, path, missing_input(execution, path, key, call), at)


def _begin_nested(execution: SagaExecution, path: Path, _: Node, at: float) -> Decision:
    return begin(execution, (*path, 0), at)


def _begin_parallel(execution: SagaExecution, path: Path, node: Parallel, at: float) -> Decision:
    if execution.steps[path].left == 0:
        return _join(execution, path, node, at)  # it has failed to be joined
    execution = _begun(execution, path, at, left=len(node.branches))
    return _begin_all(execution, path, [(i,) for i in range(len(node.branches))], at)


def _begin_for_each(execution: SagaExecution, path: Path, node: ForEach, at: float) -> Decision:
    try:
        items = items_at(execution.view(path), node.over)
    except BadItems as error:
        return fail(execution, path, failure_of(error, execution, path), at)
    left = len(items) if node.parallel else None
    execution = _begun(execution, path, at, chosen=len(items), left=left)
    for place, item in enumerate(items):
        execution = execution.with_values({node.item: item}, path=(*path, place))
    try:
        values_of(execution.values).check_size(execution.plan.context_limit, execution.plan.key_of)
    except ContextTooLarge as error:
        return fail(execution, path, failure_of(error, execution, path), at)
    if not items:
        return _end_of_loop(execution, path, node, at)
    if node.parallel:
        return _begin_all(execution, path, [(i,) for i in range(len(items))], at)
    return begin(execution, (*path, 0), at)


def _begun(execution: SagaExecution, path: Path, at: float, **changes: Any) -> SagaExecution:
    """The execution with the record of a node that has others inside."""
    return execution.with_step(
        path, status=StepStatus.RUNNING, not_before=None, started_at=at, **changes
    )


def _begin_all(execution: SagaExecution, path: Path, below: Iterable[Path], at: float) -> Decision:
    decision = Decision(execution)
    for each in below:
        decision = decision.then(begin, (*path, *each), at)
    return decision


def _begin_commits(execution: SagaExecution, path: Path, _: Node, at: float) -> Decision:
    """Send all commit tasks, in the order in which their steps have ended."""
    steps = execution.steps
    asked = sorted(steps.committing(), key=lambda of: (steps[of].ended_at or 0.0, of))
    execution = _begun(execution, path, at, left=len(asked))
    return _begin_all(execution, path, asked, at) if asked else _group_over(execution, path, at)


def _begin_wait(execution: SagaExecution, path: Path, node: Wait, at: float) -> Decision:
    if has_signal(execution, path):
        return received(execution, path, at)
    return _wait_until(execution, path, None if node.timeout is None else at + node.timeout, at)


def _begin_sleep(execution: SagaExecution, path: Path, node: Sleep, at: float) -> Decision:
    return _wait_until(execution, path, at + node.seconds, at)


def _wait_until(execution: SagaExecution, path: Path, until: float | None, at: float) -> Decision:
    execution = execution.with_step(
        path, status=StepStatus.WAITING, not_before=until, error=None, started_at=at, ended_at=None
    )
    return Decision(check_by(execution, at + WAIT_CHECK_INTERVAL if until is None else until))


def has_signal(execution: SagaExecution, path: Path) -> bool:
    """Whether the signal that a wait is for was sent, and not used yet."""
    found = signal_named(execution, execution.plan.signal_of(path))
    return found is not None and found.payload is not None


def received(execution: SagaExecution, path: Path, at: float) -> Decision:
    """The signal that a wait is for is there: it is used, and the wait is over."""
    node, signal = execution.plan.at(path), signal_named(execution, execution.plan.signal_of(path))
    assert isinstance(node, Wait)
    assert signal is not None
    execution = with_signal(execution, signal._replace(payload=None))
    if node.key is not None and signal.payload is not None:
        texts = {node.key: signal.payload}
        execution = with_changes(execution, path, Values(texts=texts))
    return _group_over(execution.with_step(path, not_before=None), path, at)


def time_has_come(execution: SagaExecution, path: Path, at: float) -> Decision:
    """The end of a sleep, or the timeout of a wait: its branch, or a failure."""
    node = execution.plan.at(path)
    execution = execution.with_step(path, not_before=None)
    if isinstance(node, Sleep):
        return _group_over(execution, path, at)
    assert isinstance(node, Wait)
    if node.on_timeout is not None:
        execution = execution.with_step(path, status=StepStatus.RUNNING, chosen=0)
        return begin(execution, (*path, 0), at)
    error = SignalTimeout(execution.plan.signal_of(path), node.timeout or 0.0)
    return fail(execution, path, failure_of(error, execution, path), at)


_BEGIN: Mapping[type, Callable[..., Decision]] = {
    PlanStep: _begin_task,
    RemoteStep: _begin_task,
    Choice: _begin_task,
    Wait: _begin_wait,
    Sleep: _begin_sleep,
    NestedSaga: _begin_nested,
    Parallel: _begin_parallel,
    ForEach: _begin_for_each,
    Commits: _begin_commits,
}


def over(execution: SagaExecution, path: Path, at: float) -> Decision:
    """What follows when the node at ``path`` is over: the next one, a join, or the end."""
    if execution.rollback_reason is not None:
        return continue_rollback(execution, at)
    if not path:
        return end(execution, SagaStatus.COMPLETED, at)
    node = execution.plan.at(above := execution.plan.above(path))
    followed: Decision = _OVER[type(node)](execution, above, node, path[-1], at)
    return followed


def _over_in_nested(
    execution: SagaExecution, path: Path, node: NestedSaga, place: int, at: float
) -> Decision:
    if place + 1 < len(node.steps):
        return begin(execution, (*path, place + 1), at)
    if node.scoped:
        if node.returns is None:
            update, removed = split_removed(values_in(execution.values, f"{dotted(path)}s"))
        else:
            update, removed = returned(execution.view((*path, 0)), node.returns), []
        execution = with_changes(execution, path, update, removed)
    return over(execution, path, at)


def _over_in_parallel(
    execution: SagaExecution, path: Path, node: Parallel | Commits, _: int, at: float
) -> Decision:
    execution, last = _one_less(execution, path)
    if last and isinstance(node, Parallel):
        return _join(execution, path, node, at)
    return _group_over(execution, path, at) if last else Decision(execution)


def _one_less(execution: SagaExecution, path: Path) -> tuple[SagaExecution, bool]:
    """The execution with one branch of a group less to wait for, and whether that was the last."""
    left = (execution.steps[path].left or 1) - 1
    return execution.with_step(path, left=left), left == 0


def _join(execution: SagaExecution, path: Path, node: Parallel, at: float) -> Decision:
    """All branches are over: what they wrote comes into the context around them."""
    names = [each.name for each in node.branches]
    try:
        update, removed = split_removed(joined(execution.values, dotted(path), names))
    except JoinConflict as error:
        return fail(execution, path, failure_of(error, execution, path), at)
    return _group_over(with_changes(execution, path, update, removed), path, at)


def _group_over(execution: SagaExecution, path: Path, at: float) -> Decision:
    execution = execution.with_step(path, status=StepStatus.SUCCEEDED, error=None, ended_at=at)
    return over(execution, path, at)


def _over_in_choice(
    execution: SagaExecution, path: Path, node: Choice | Wait, _: int, at: float
) -> Decision:
    return _group_over(execution, path, at)


def answered(execution: SagaExecution, path: Path, answer: bool, at: float) -> Decision:
    """A condition of a choice is known: take its alternative, or ask for the next one."""
    record, node = execution.steps[path], execution.plan.at(path)
    assert isinstance(node, Choice)
    if answer:
        return _taken(execution, path, record.asked, at)
    execution = execution.ended(path, asked=record.asked + 1, revised=None, attempts=0, lost=0)
    if record.asked + 1 < len(node.cases):
        return _decided(execution, at) or begin(execution, path, at)
    if node.otherwise is not None:
        return _taken(execution, path, len(node.cases), at)
    return _group_over(execution.ended(path, chosen=-1), path, at)


def _taken(execution: SagaExecution, path: Path, place: int, at: float) -> Decision:
    execution = execution.ended(path, chosen=place, revised=None, expected_at=None)
    return _decided(execution, at) or begin(execution, (*path, place), at)


def _decided(execution: SagaExecution, at: float) -> Decision | None:
    """The rollback, if that was asked for meanwhile."""
    return None if execution.rollback_reason is None else continue_rollback(execution, at)


def _over_in_loop(
    execution: SagaExecution, path: Path, node: ForEach, place: int, at: float
) -> Decision:
    if node.parallel:
        execution, last = _one_less(execution, path)
        return _end_of_loop(execution, path, node, at) if last else Decision(execution)
    if node.returns is None:
        own = values_in(execution.values, dotted((*path, place))).changed({}, [node.item])
        update, removed = split_removed(own)
        execution = with_changes(execution, path, update, removed)
    if place + 1 < (execution.steps[path].chosen or 0):
        return begin(execution, (*path, place + 1), at)
    return _end_of_loop(execution, path, node, at)


def _end_of_loop(execution: SagaExecution, path: Path, node: ForEach, at: float) -> Decision:
    if node.parallel or node.returns is not None:
        scopes = [dotted((*path, i)) for i in range(execution.steps[path].chosen or 0)]
        lists, removed = lists_of(execution.values, scopes, node.item, node.returns)
        execution = with_changes(execution, path, lists, removed)
    return _group_over(execution, path, at)


_OVER: Mapping[type, Callable[..., Decision]] = {
    NestedSaga: _over_in_nested,
    Parallel: _over_in_parallel,
    Choice: _over_in_choice,
    ForEach: _over_in_loop,
    Wait: _over_in_choice,
    Commits: _over_in_parallel,
}


def fail(execution: SagaExecution, path: Path, failure: Failure, at: float) -> Decision:
    """A node cannot continue: the saga is rolled back, or past its pivot needs an operator."""
    execution = execution.ended(path, status=StepStatus.FAILED, error=failure, ended_at=at)
    if past_pivot(execution):
        return hold(execution, failure)
    return start_rollback(execution, failure, at)


def resume_forward(execution: SagaExecution, at: float) -> Decision:
    """Send the steps that wait for their time, if it has come, and begin what comes next."""
    if execution.rollback_reason is not None and execution.held is None:
        return continue_rollback(execution, at)
    if not execution.active and next(execution.frontier(), None) is None:
        return end(execution, SagaStatus.COMPLETED, at)
    decision = Decision(execution)
    for path in list(ready(execution)):
        decision = decision.then(_resume, path, at)
    return decision


def _resume(execution: SagaExecution, path: Path, at: float) -> Decision:
    if execution.rollback_reason is not None or execution.status is SagaStatus.PAUSED:
        return Decision(execution)
    step, node, until = execution.steps[path], execution.plan.at(path), _until(execution, path, at)
    if until is not None and at < until:
        return Decision(check_by(execution, until))
    if step.status is StepStatus.WAITING and isinstance(node, Wait | Sleep):
        if isinstance(node, Wait) and has_signal(execution, path):
            return received(execution, path, at)
        return time_has_come(execution, path, at)
    if step.status is StepStatus.WAITING:
        return send(execution, path, Direction.FORWARD, at)
    return begin(execution, path, at)


def _until(execution: SagaExecution, path: Path, at: float) -> float | None:
    """Until when nothing is to be done for a node; ``None``: its time has come, or it has none."""
    step, node = execution.steps[path], execution.plan.at(path)
    if isinstance(node, Wait) and step.status is StepStatus.WAITING:
        if has_signal(execution, path):
            return None
        if step.not_before is None:
            return at + WAIT_CHECK_INTERVAL
    return step.not_before


def send_what_waited(execution: SagaExecution, at: float) -> Decision:
    """Send the steps that wait for their time, if it has come."""
    if execution.settled:
        return Decision(execution)
    rolling_back = execution.direction is Direction.COMPENSATION
    waiting = execution.next_compensations if rolling_back else list(ready(execution))
    if execution.active and not waiting:
        return Decision(execution)
    times = [_until(execution, path, at) for path in waiting]
    later = [until for until in times if until is not None and at < until]
    for until in later:
        execution = check_by(execution, until)
    if waiting and len(later) == len(waiting):
        return Decision(execution)
    execution = check_by(execution, at + CHECK_INTERVAL)
    if execution.status is SagaStatus.PAUSED:
        return Decision(execution)
    return continue_rollback(execution, at) if rolling_back else resume_forward(execution, at)
