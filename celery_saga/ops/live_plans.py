"""Holds the plans of live sagas against the code of this process: can it finish them?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from inspect import Parameter
from typing import Any

from celery import Celery

from celery_saga.core.execution import TERMINAL, Direction, SagaExecution, SagaStatus, StepStatus
from celery_saga.core.plan import Call
from celery_saga.core.ports import Store
from celery_saga.definition.discovery import import_as_a_worker
from celery_saga.definition.tasks.declarations import function_of
from celery_saga.definition.tasks.signatures import parameters_of
from celery_saga.errors import UnreadableCheckpoint
from celery_saga.ops.doctor.collect.required_tasks import StillNeeded, still_needed
from celery_saga.runtime import runtime_of

_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Mismatch:
    """What live sagas will send, and this code does not take.

    Args:
        saga: name of the sagas.
        step: name of the step; empty: the saga as a whole.
        task: name of the task; empty: as above.
        problem: what does not fit, and what to change.
        runs: how many live sagas it concerns.
        example: the id of one of them.
    """

    saga: str
    step: str
    task: str
    problem: str
    runs: int
    example: str


@dataclass(frozen=True)
class Checked:
    """How many live sagas were examined, and what was found."""

    runs: int
    found: tuple[Mismatch, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"runs": self.runs, "found": [asdict(each) for each in self.found]}


def check(app: Celery) -> Checked:
    """Examine all live sagas of the store, those that are stuck included.

    Args:
        app: the Celery app; its modules are imported, as a worker does.

    Raises:
        SetupError: the app has no :class:`~celery_saga.SagaManager`.
        StoreUnavailable: the store is unavailable.
    """
    store = runtime_of(app).store
    import_as_a_worker(app)
    runs, found = 0, dict[tuple[str, ...], Mismatch]()
    for each in _live(store):
        runs += 1
        for mismatch in {each} if isinstance(each, Mismatch) else _of_saga(app, each):
            key = (mismatch.saga, mismatch.step, mismatch.task, mismatch.problem)
            known = found.get(key)
            found[key] = mismatch if known is None else replace(known, runs=known.runs + 1)
    return Checked(runs, tuple(found[key] for key in sorted(found)))


def _live(store: Store) -> Iterator[SagaExecution | Mismatch]:
    """The live sagas; in the place of one that cannot be read, what is wrong with it."""
    for status in SagaStatus:
        if status in TERMINAL:
            continue
        for _, saga_id in store.find(status, max(1, store.count(status))):
            try:
                execution = store.load(saga_id)
            except UnreadableCheckpoint as error:
                yield Mismatch("", "", "", f"its checkpoint cannot be read: {error}", 1, saga_id)
                continue
            # It may have changed meanwhile.
            if execution is not None and execution.status is status:
                yield execution


def _of_saga(app: Celery, execution: SagaExecution) -> set[Mismatch]:
    """The mismatches of a saga, each once: several calls of a step may have the same one."""
    needed, plan = _needed(execution), execution.plan
    return {
        Mismatch(plan.saga, plan.name_of(path), call.task, problem, 1, execution.saga_id)
        for path, call, direction in plan.calls()
        if needed(path, direction)
        for problem in problems_of(app, call, direction)
    }


def _needed(execution: SagaExecution) -> StillNeeded:
    """The tasks that may still be sent, also because an operator retries what blocks a saga."""
    needed, plan = still_needed(execution), execution.plan
    if execution.status is not SagaStatus.STUCK:
        return needed
    forward = execution.direction is Direction.FORWARD
    blocking = StepStatus.FAILED if forward else StepStatus.COMPENSATION_FAILED
    blocked = {
        (plan.first_of(path), execution.direction)
        for path, step in execution.steps.items()
        if step.status is blocking
    }
    return lambda path, direction: needed(path, direction) or (path, direction) in blocked


def problems_of(app: Celery, call: Call, direction: Direction) -> Sequence[str]:
    """What prevents the app's code from running a task as a frozen plan calls it."""
    task = app.tasks.get(call.task)
    what = "compensation" if direction is Direction.COMPENSATION else "task"
    if task is None:
        return (f"this code has no {what} of that name: keep one under the old name",)
    params = parameters_of(function_of(task))
    if params is None or call.style == "context":
        return ()  # the context takes one argument, whatever is in it
    return tuple(_misfits(params, {item.param for item in call.inputs}))


def _misfits(params: Iterable[Parameter], sent: set[str]) -> Iterator[str]:
    params = list(params)
    named = {param.name: param for param in params if param.kind in _NAMED}
    if not any(param.kind is Parameter.VAR_KEYWORD for param in params):
        for name in sorted(sent - set(named)):
            yield f"it takes no parameter {name!r} any more, which is sent: keep the parameter"
    for name, param in named.items():
        if name not in sent and param.default is Parameter.empty:
            yield f"its parameter {name!r} is required and is not sent: give it a default"
