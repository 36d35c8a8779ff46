"""What operators and callers ask for: cancel, pause, resume, retry, skip, resolve, signal.

Each leaves a line of history.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from celery_saga.core.context.data import Values, values_of
from celery_saga.core.context.joins import joined, split_removed
from celery_saga.core.context.scoped import stored_name
from celery_saga.core.decide.forward import (
    has_signal,
    over,
    received,
    send_what_waited,
    time_has_come,
)
from celery_saga.core.decide.rollback import continue_rollback, start_rollback
from celery_saga.core.decide.transitions import (
    CHECK_INTERVAL,
    check_at,
    deadline_failure,
    end,
    ended_branches,
    name_of_current,
    noted,
    past_pivot,
    signal_named,
    with_changes,
    with_signal,
    without_result,
)
from celery_saga.core.events import (
    CancelRequested,
    Decision,
    PauseRequested,
    ResolveRequested,
    ResumeRequested,
    RetryRequested,
    SignalReceived,
    SkipRequested,
)
from celery_saga.core.execution import (
    TERMINAL,
    Direction,
    Failure,
    OperatorRequest,
    SagaExecution,
    SagaStatus,
    SagaStepExecution,
    StepStatus,
)
from celery_saga.core.plan import Choice, Parallel, Path, Plan, PlanStep, Wait, dotted
from celery_saga.core.state import Signal, replace
from celery_saga.errors import SagaNotActionable, SagaPastPivot, UnknownSignal

OfStuckSagas = RetryRequested | SkipRequested | ResolveRequested
Request = PauseRequested | ResumeRequested | OfStuckSagas


#: A request is handed in again when its save was not confirmed, and something else has changed the
#: saga since. So many requests of others may have come in between.
KEPT_REQUESTS = 8

#: The numbers of items behind the name of a signal: ``[7]``.
_ITEMS = re.compile(r"(\[\d+\])+$")


def _was_done(execution: SagaExecution, verb: str, event: Request) -> bool:
    return OperatorRequest(event.at, verb, event.by) in execution.last_requests


def _requested(
    execution: SagaExecution, verb: str, event: Request, detail: str = ""
) -> SagaExecution:
    """The execution with a request that is carried out now, and a line of history of it."""
    request = OperatorRequest(event.at, verb, event.by)
    kept = (*execution.last_requests, request)[-KEPT_REQUESTS:]
    return replace(noted(execution, *request, detail), last_requests=kept)


def _refused(execution: SagaExecution, verb: str) -> Decision:
    refusal = SagaNotActionable(execution.saga_id, verb, execution.status.value)
    return Decision(execution, refusal=refusal)


def _is_stuck(execution: SagaExecution, event: OfStuckSagas) -> bool:
    """Whether it is stuck, and still at what it was when the operator looked."""
    stuck = execution.status is SagaStatus.STUCK
    return stuck and event.stuck in (None, execution.stuck_count)


def on_cancel_requested(execution: SagaExecution, event: CancelRequested) -> Decision:
    """Roll back, unless the outcome is final already or the pivot forbids it."""
    if execution.status in TERMINAL or execution.direction is Direction.COMPENSATION:
        return Decision(execution)
    if execution.rollback_reason is not None:
        return Decision(execution)
    if past_pivot(execution):
        pivot = "" if execution.plan.pivot is None else execution.plan.name_of(execution.plan.pivot)
        return Decision(execution, refusal=SagaPastPivot(execution.saga_id, pivot))
    execution = noted(execution, event.at, "cancel", event.by, event.reason)
    failure = Failure("Cancelled", event.reason, name_of_current(execution))
    if execution.status in (SagaStatus.PAUSED, SagaStatus.STUCK):
        execution = replace(execution, status=SagaStatus.RUNNING)
    return request_rollback(execution, failure, event.at)


def request_rollback(execution: SagaExecution, failure: Failure, at: float) -> Decision:
    """Roll back now if no claim is alive; otherwise when the claimed steps have ended."""
    if execution.direction is Direction.COMPENSATION:
        return Decision(execution)
    execution = check_at(
        replace(execution, rollback_reason=failure, deadline=None), at + CHECK_INTERVAL
    )
    if any(execution.steps[ref.path].claim is not None for ref in execution.active):
        return continue_rollback(execution, at)
    return start_rollback(execution, failure, at)


def on_pause_requested(execution: SagaExecution, event: PauseRequested) -> Decision:
    """Send nothing more; a step that is on its way may end."""
    if _was_done(execution, "pause", event):
        return Decision(execution)
    if execution.settled or execution.status is SagaStatus.PAUSED:
        return _refused(execution, "pause")
    execution = _requested(execution, "pause", event)
    return Decision(replace(execution, status=SagaStatus.PAUSED))


def on_resume_requested(execution: SagaExecution, event: ResumeRequested) -> Decision:
    """Take up where the pause began."""
    if _was_done(execution, "resume", event):
        return Decision(execution)
    if execution.status is not SagaStatus.PAUSED:
        return _refused(execution, "resume")
    execution = _requested(execution, "resume", event)
    return _continue(execution, event.at)


def on_signal_received(execution: SagaExecution, event: SignalReceived) -> Decision:
    """Keep a signal for its wait, or end the wait that is there already.

    Until a wait has used it, another one of that name replaces it; later ones change nothing. One
    that comes when the wait's timeout or the deadline has passed comes too late, also if the sweep
    has not found that yet.
    """
    known = signal_named(execution, event.name)
    tokens = () if known is None else known.tokens
    if known is not None and (known.payload is None or event.token in tokens):
        return Decision(execution)
    rolling_back = execution.direction is Direction.COMPENSATION
    if execution.status in TERMINAL or rolling_back or execution.rollback_reason is not None:
        return _refused(execution, "signal")
    if not _is_waited_for(execution.plan, event.name):
        unknown = UnknownSignal(execution.saga_id, event.name, _expected(execution.plan))
        return Decision(execution, refusal=unknown)
    over = _passed(execution, event)
    if over is not None:
        decision = over.then(on_signal_received, event)  # an alternative may wait for it again
        refusal = decision.refusal
        return decision if refusal is None else Decision(execution, refusal=refusal)
    execution = noted(execution, event.at, "signal", event.by, event.name)
    signal = Signal(event.name, event.payload, (*tokens, event.token)[-KEPT_REQUESTS:])
    execution = with_signal(execution, signal)
    path = next((path for path, name in awaited(execution) if name == event.name), None)
    if path is None or execution.status is not SagaStatus.RUNNING:
        return Decision(execution)
    return received(execution, path, event.at)


def _is_waited_for(plan: Plan, name: str) -> bool:
    """Whether a wait of the plan is for a signal; in a loop its name has the item's number."""
    base = _ITEMS.sub("", name)
    return plan.signals.get(base) == name.count("[")


def _expected(plan: Plan) -> str:
    numbers = ((name, "[number of the item]" * loops) for name, loops in plan.signals.items())
    names = " or ".join(repr(f"{name}{items}") for name, items in numbers)
    return f"expected {names}" if names else "it has no wait_for()"


def _passed(execution: SagaExecution, event: SignalReceived) -> Decision | None:
    """What has happened by its time, and was not decided yet; ``None``: nothing.

    A pause stops the time of a wait, not that of the saga.
    """
    deadline, at = execution.deadline, event.at
    if deadline is not None and at >= deadline and not past_pivot(execution):
        return request_rollback(execution, deadline_failure(name_of_current(execution)), at)
    path = next((path for path, name in awaited(execution) if name == event.name), None)
    until = None if path is None else execution.steps[path].not_before
    if path is None or until is None or at < until or execution.status is SagaStatus.PAUSED:
        return None
    return None if has_signal(execution, path) else time_has_come(execution, path, at)


def awaited(execution: SagaExecution) -> Iterator[tuple[Path, str]]:
    """The waits that have begun, and the names of the signals that they are for."""
    plan = execution.plan
    waiting = (path for path, it in execution.steps.every() if it.status is StepStatus.WAITING)
    return ((path, plan.signal_of(path)) for path in waiting if isinstance(plan.at(path), Wait))


def _continue(execution: SagaExecution, at: float) -> Decision:
    rolling_back = execution.direction is Direction.COMPENSATION
    status = SagaStatus.COMPENSATING if rolling_back else SagaStatus.RUNNING
    execution = replace(execution, status=status, due_at=None)
    if execution.active:
        execution = check_at(execution, at + CHECK_INTERVAL)
    return send_what_waited(execution, at)


def on_retry_requested(execution: SagaExecution, event: RetryRequested) -> Decision:
    """A stuck saga tries again what held it up, with a corrected context if one is given."""
    if _was_done(execution, "retry", event):
        return Decision(execution)
    if not _is_stuck(execution, event) or not retryable(execution):
        return _refused(execution, "retry")
    detail = ", ".join(sorted(event.update))
    execution = _requested(execution, "retry", event, detail)
    execution = _edited(execution, event.update)
    for path, step in list(execution.steps.items()):
        if step.status is StepStatus.COMPENSATION_FAILED:
            execution = execution.with_step(
                path, status=StepStatus.COMPENSATING, attempts=0, lost=0, revised=None
            )
    if execution.direction is Direction.FORWARD:
        execution = replace(execution, error=None)
        for path in list(execution.frontier()):
            execution = execution.with_step(
                path, status=StepStatus.PENDING, attempts=0, lost=0, revised=None
            )
    return _continue(execution, event.at)


def retryable(execution: SagaExecution) -> bool:
    """Whether there is a task to try again: a step without a compensation cannot be compensated."""
    failed = [step.status is StepStatus.COMPENSATION_FAILED for step in execution.steps]
    return execution.direction is Direction.FORWARD or any(failed)


def _edited(execution: SagaExecution, update: Mapping[str, Any]) -> SagaExecution:
    """The execution with an operator's values, which hold for all that is still to run.

    In branches and items they hold for what holds the saga up, also where its own scope has a key.
    """
    for path, step in list(execution.steps.items()) if update else ():
        kept = {key: text for key, text in (step.kept or {}).items() if key not in update}
        if step.kept:
            execution = execution.with_step(path, kept=kept or None)
    replaced = {key: it for key, it in (execution.replaced or {}).items() if key not in update}
    execution = replace(execution, replaced=replaced or None).with_values(update)
    ended = (StepStatus.FAILED, StepStatus.UNKNOWN, StepStatus.COMPENSATION_FAILED)
    for path, step in list(execution.steps.items()) if not execution.plan.linear else ():
        if step.status in ended:
            execution = _edited_around(execution, path, values_of(update))
    return execution


def _edited_around(execution: SagaExecution, path: Path, update: Values) -> SagaExecution:
    """Edit the scopes around a node, and of a group that failed to be joined those inside."""
    places, node = [path[:depth] for depth in range(1, len(path) + 1)], execution.plan.at(path)
    if isinstance(node, Parallel):
        places += [(*path, place) for place in range(len(node.branches))]
    for place in places:
        scope = execution.plan.scopes(place)[0].id
        texts = {
            key: update.text(key)
            for key in update
            if scope and stored_name(scope, key) in execution.values
        }
        changed = Values(texts=texts, codec=update.codec)
        execution = execution.with_values(changed, path=place)
    return execution


def on_skip_requested(execution: SagaExecution, event: SkipRequested) -> Decision:
    """An operator has done by hand what holds a stuck saga up; it continues behind it."""
    if _was_done(execution, "skip", event):
        return Decision(execution)
    if not _is_stuck(execution, event):
        return _refused(execution, "skip")
    execution = _requested(execution, "skip", event)
    failed = ended_branches(execution) if execution.direction is Direction.FORWARD else []
    if failed:
        return _skipped(execution, failed, event.at)
    obstacle = held_up_by(execution)  # of several the one that is shown: of that it was asked
    for path, step in list(execution.steps.items()):
        if step is obstacle:
            execution = execution.with_step(path, status=StepStatus.SKIPPED, effect=False)
    return _continue(execution, event.at)


def _skipped(execution: SagaExecution, failed: list[Path], at: float) -> Decision:
    """Continue behind the node that is shown as the cause; other branches may be held up too."""
    error, name_of = execution.error, execution.plan.name_of
    path = next((each for each in failed if error and name_of(each) == error.step), failed[0])
    others = [each for each in failed if each != path]
    held = execution.steps[others[0]].error if others else None
    execution = replace(execution, status=SagaStatus.RUNNING, error=held, held=held)
    execution = check_at(execution, at + CHECK_INTERVAL)
    node = execution.plan.at(path)
    execution = execution.with_step(path, status=StepStatus.SKIPPED)
    if isinstance(node, PlanStep) and node.compensation is not None:
        # An operator has done its work: a rollback that comes later has to compensate it.
        execution = execution.with_step(path, effect=True)
        execution = without_result(execution, path, StepStatus.SKIPPED)
    elif isinstance(node, Choice):
        execution = execution.with_step(path, chosen=-1)
    elif isinstance(node, Parallel) and execution.steps[path].left == 0:
        execution = _joined_in_part(execution, path, node)
    return over(execution, path, at)


def _joined_in_part(execution: SagaExecution, path: Path, node: Parallel) -> SagaExecution:
    """A join that is skipped: what its branches do not agree on stays as it was around them."""
    names = [each.name for each in node.branches]
    agreed = joined(execution.values, dotted(path), names, agreed=True)
    update, removed = split_removed(agreed)
    return with_changes(execution, path, update, removed)


def held_up_by(execution: SagaExecution) -> SagaStepExecution | None:
    """The step at which the rollback of a stuck saga ended; there may be more after it."""
    for step in execution.steps:
        if step.status is StepStatus.COMPENSATION_FAILED and step.effect:
            return step
    return execution.unresolved()


def on_resolve_requested(execution: SagaExecution, event: ResolveRequested) -> Decision:
    """An operator has settled a stuck saga by hand and says how it ended."""
    if _was_done(execution, "resolve", event):
        return Decision(execution)
    if not _is_stuck(execution, event) or event.status not in TERMINAL:
        return _refused(execution, "resolve")
    execution = _requested(execution, "resolve", event, event.status.value)
    execution = replace(execution, resolved_at=event.at)
    if event.status is SagaStatus.COMPENSATED:
        execution = replace(execution, direction=Direction.COMPENSATION)
        for path, step in list(execution.steps.items()):
            if step.effect:
                execution = execution.with_step(path, status=StepStatus.SKIPPED, effect=False)
    return end(execution, event.status, event.at)
