"""The way forward through the tree of a plan.

A node is begun, and once it is over its parent says what is next::

    node        begun                                 when a node inside of it is over
    ----------  ------------------------------------  ------------------------------------------
    step        its task is sent                      -
    nested      its first node                        the next one; after the last its returns
    parallel    all branches                          after the last: their contexts are joined
    choice      its first condition is sent           it is over, too
    for_each    its first item, or all of them        the next item; after the last the lists

Nothing is begun while the saga is paused, or once a rollback was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery_saga.core.context.data import Values, values_of
from celery_saga.core.context.scoped import REMOVED, names_in
from celery_saga.core.decide.rollback import continue_rollback, start_rollback
from celery_saga.core.decide.transitions import (
    CHECK_INTERVAL,
    call_of,
    check_by,
    deadline_failure,
    end,
    hold,
    missing_input,
    past_pivot,
    ready,
    send,
    with_changes,
)
from celery_saga.core.events import Decision
from celery_saga.core.execution import (
    Direction,
    Failure,
    SagaExecution,
    SagaStatus,
    StepStatus,
)
from celery_saga.core.plan import (
    Choice,
    ForEach,
    NestedSaga,
    Node,
    Parallel,
    Path,
    PlanStep,
    dotted,
)
from celery_saga.core.state import replace

#: Items that a loop may have: each is a part of the checkpoint as long as the saga runs.
MAX_ITEMS = 1000


def begin(execution: SagaExecution, path: Path, at: float) -> Decision:
    """Begin a node that comes next, or that has failed and is tried again."""
    if execution.rollback_reason is not None:
        return Decision(execution)
    deadline = execution.deadline
    if deadline is not None and at >= deadline and not past_pivot(execution):
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
    key = call.missing(execution.view(path))
    if key is None:
        return send(execution, path, Direction.FORWARD, at)
    return fail(execution, path, missing_input(execution, path, key, call), at)


def _begin_nested(execution: SagaExecution, path: Path, _: Node, at: float) -> Decision:
    return begin(execution, (*path, 0), at)


def _begin_parallel(execution: SagaExecution, path: Path, node: Parallel, at: float) -> Decision:
    if execution.steps[path].left == 0:
        return _join(execution, path, node, at)  # it has failed to be joined
    execution = _begun(execution, path, at, left=len(node.branches))
    return _begin_all(execution, path, len(node.branches), at)


def _begin_for_each(execution: SagaExecution, path: Path, node: ForEach, at: float) -> Decision:
    try:
        items = _items(execution, path, node)
    except ValueError as error:
        name = execution.plan.name_of(path)
        return fail(execution, path, Failure("celery_saga.errors.BadItems", str(error), name), at)
    left = len(items) if node.parallel else None
    execution = _begun(execution, path, at, chosen=len(items), left=left)
    for place, item in enumerate(items):
        execution = execution.with_values({node.item: item}, path=(*path, place))
    if not items:
        return _end_of_loop(execution, path, node, at)
    if node.parallel:
        return _begin_all(execution, path, len(items), at)
    return begin(execution, (*path, 0), at)


def _items(execution: SagaExecution, path: Path, node: ForEach) -> list[Any]:
    """The list that a loop goes over.

    Raises:
        ValueError: there is none, or it has too many items.
    """
    found: Any = execution.view(path)
    shown = "".join(f"[{key!r}]" for key in node.over)
    try:
        for key in node.over:
            found = found[key]
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"expected a list at context{shown}, found nothing there") from None
    if not isinstance(found, list):
        kind = type(found).__name__
        raise ValueError(f"expected a list at context{shown}, found a value of type {kind}")
    if len(found) > MAX_ITEMS:
        raise ValueError(
            f"expected at most {MAX_ITEMS} items at context{shown}, found {len(found)}: "
            f"start a saga for each part of the list"
        )
    return found


def _begun(execution: SagaExecution, path: Path, at: float, **changes: Any) -> SagaExecution:
    """The execution with the record of a node that has others inside."""
    return execution.with_step(
        path, status=StepStatus.RUNNING, not_before=None, started_at=at, **changes
    )


def _begin_all(execution: SagaExecution, path: Path, count: int, at: float) -> Decision:
    decision = Decision(execution)
    for place in range(count):
        decision = decision.then(begin, (*path, place), at)
    return decision


_BEGIN: Mapping[type, Callable[..., Decision]] = {
    PlanStep: _begin_task,
    Choice: _begin_task,
    NestedSaga: _begin_nested,
    Parallel: _begin_parallel,
    ForEach: _begin_for_each,
}


def over(execution: SagaExecution, path: Path, at: float) -> Decision:
    """What follows when the node at ``path`` is over: the next one, a join, or the end."""
    if execution.rollback_reason is not None:
        return continue_rollback(execution, at)
    if not path:
        return end(execution, SagaStatus.COMPLETED, at)
    node = execution.plan.at(path[:-1])
    followed: Decision = _OVER[type(node)](execution, path[:-1], node, path[-1], at)
    return followed


def _over_in_nested(
    execution: SagaExecution, path: Path, node: NestedSaga, place: int, at: float
) -> Decision:
    if place + 1 < len(node.steps):
        return begin(execution, (*path, place + 1), at)
    if node.scoped:
        execution = _returned(execution, path, node)
    return over(execution, path, at)


def _returned(execution: SagaExecution, path: Path, node: NestedSaga) -> SagaExecution:
    """The execution with what a nested saga hands on to the context around it."""
    if node.returns is None:
        return _handed_on(execution, path, _written(execution, f"{dotted(path)}s"))
    inside = execution.view((*path, 0))
    found = {outer: key for outer, key in node.returns.items() if key in inside}
    texts = {outer: inside.text(key) for outer, key in found.items()}
    return with_changes(execution, path, Values(texts=texts, codec=inside.codec))


def _handed_on(execution: SagaExecution, path: Path, values: Values) -> SagaExecution:
    """The execution with what was written inside of a node, and without what was removed."""
    removed = _removed(values)
    return with_changes(execution, path, values.changed({}, removed), removed)


def _removed(values: Values) -> list[str]:
    return [key for key, text in values.texts().items() if text == REMOVED]


def _over_in_parallel(
    execution: SagaExecution, path: Path, node: Parallel, _: int, at: float
) -> Decision:
    execution, last = _one_less(execution, path)
    return _join(execution, path, node, at) if last else Decision(execution)


def _one_less(execution: SagaExecution, path: Path) -> tuple[SagaExecution, bool]:
    """The execution with one branch of a group less to wait for, and whether that was the last."""
    left = (execution.steps[path].left or 1) - 1
    return execution.with_step(path, left=left), left == 0


def _join(execution: SagaExecution, path: Path, node: Parallel, at: float) -> Decision:
    """All branches are over: what they wrote comes into the context around them."""
    joined: dict[str, tuple[str, str]] = {}
    for place, branch in enumerate(node.branches):
        written = _written(execution, dotted((*path, place)))
        for key, text in written.texts().items():
            other, known = joined.setdefault(key, (branch.name, text))
            if known != text and written.codec.loads(known) != written.codec.loads(text):
                name = execution.plan.name_of(path)
                text = f"branches {other!r} and {branch.name!r} wrote different values of {key!r}"
                failure = Failure("celery_saga.errors.JoinConflict", text, name)
                return fail(execution, path, failure, at)
    texts = {key: text for key, (_, text) in joined.items()}
    execution = _handed_on(execution, path, Values(texts=texts))
    return _group_over(execution, path, at)


def _written(execution: SagaExecution, scope: str) -> Values:
    """What was written into a scope."""
    values = values_of(execution.values)
    texts = {key: values.text(name) for key, name in names_in(scope, values)}
    return Values(texts=texts, codec=values.codec)


def _group_over(execution: SagaExecution, path: Path, at: float) -> Decision:
    execution = execution.with_step(path, status=StepStatus.SUCCEEDED, error=None, ended_at=at)
    return over(execution, path, at)


def _over_in_choice(
    execution: SagaExecution, path: Path, node: Choice, _: int, at: float
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
        written = _written(execution, dotted((*path, place))).changed({}, [node.item])
        execution = _handed_on(execution, path, written)
    if place + 1 < (execution.steps[path].chosen or 0):
        return begin(execution, (*path, place + 1), at)
    return _end_of_loop(execution, path, node, at)


def _end_of_loop(execution: SagaExecution, path: Path, node: ForEach, at: float) -> Decision:
    """The lists of what the items wrote, in their order."""
    if node.parallel or node.returns is not None:
        count = execution.steps[path].chosen or 0
        every = [_written(execution, dotted((*path, place))) for place in range(count)]
        removed = dict.fromkeys(key for item in every for key in _removed(item))
        items = [item.changed({}, _removed(item)) for item in every]
        if node.returns is not None:
            keys, removed = [node.returns], {}
        else:
            keys = list(dict.fromkeys(key for item in items for key in item if key != node.item))
        lists = {key: [item.get(key) for item in items] for key in keys}
        dropped = [key for key in removed if key not in lists and key != node.item]
        execution = with_changes(execution, path, lists, dropped)
    return _group_over(execution, path, at)


_OVER: Mapping[type, Callable[..., Decision]] = {
    NestedSaga: _over_in_nested,
    Parallel: _over_in_parallel,
    Choice: _over_in_choice,
    ForEach: _over_in_loop,
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
    step = execution.steps[path]
    if step.not_before is not None and at < step.not_before:
        return Decision(check_by(execution, step.not_before))
    if step.status is StepStatus.WAITING:
        return send(execution, path, Direction.FORWARD, at)
    return begin(execution, path, at)


def send_what_waited(execution: SagaExecution, at: float) -> Decision:
    """Send the steps that wait for their time, if it has come."""
    if execution.settled:
        return Decision(execution)
    rolling_back = execution.direction is Direction.COMPENSATION
    waiting = execution.next_compensations if rolling_back else list(ready(execution))
    if execution.active and not waiting:
        return Decision(execution)
    times = [execution.steps[path].not_before for path in waiting]
    later = [until for until in times if until is not None and at < until]
    for until in later:
        execution = check_by(execution, until)
    if waiting and len(later) == len(waiting):
        return Decision(execution)
    execution = check_by(execution, at + CHECK_INTERVAL)
    if execution.status is SagaStatus.PAUSED:
        return Decision(execution)
    return continue_rollback(execution, at) if rolling_back else resume_forward(execution, at)
