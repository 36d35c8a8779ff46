"""Gathers the required tasks: of sagas that are committed here, and of live ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from celery import Celery

from celery_saga.core.execution import Direction, SagaExecution, SagaStepExecution, StepStatus
from celery_saga.core.plan import Call, Choice, ForEach, Path, Plan, Wait
from celery_saga.definition.builder import SAGAS, SagaDefinition
from celery_saga.definition.functions import is_wire_name
from celery_saga.errors import DefinitionError, DefinitionWarning, SagaError, SetupError
from celery_saga.messaging.routing import queue_of
from celery_saga.ops.doctor.facts import RequiredTask, TaskTiming
from celery_saga.runtime import Runtime

#: Statuses of a step whose forward task is still to come, or not over yet.
_AHEAD = frozenset({StepStatus.PENDING, StepStatus.RUNNING, StepStatus.WAITING})

#: Statuses of a step whose compensation is not needed any more.
_DONE_WITH = frozenset({StepStatus.COMPENSATED, StepStatus.SKIPPED})


def gather_required_tasks(
    runtime: Runtime, live: Iterable[SagaExecution]
) -> tuple[tuple[RequiredTask, ...], dict[str, str]]:
    """What committed and ``live`` sagas need, and the sagas that cannot be started, with why."""
    needed: list[tuple[RequiredTask, int]] = []
    broken: dict[str, str] = {}
    for definition in SAGAS.every():
        if not _runs_on(definition, runtime.app):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DefinitionWarning)
                plan = runtime.plans.of(definition)
        except SetupError:
            continue  # of a wrong setting, which has a check of its own
        except SagaError as error:
            broken[definition.name] = str(error)
            continue
        needed += [(task, 0) for task in _required_tasks(runtime.app, plan, lambda *_: True)]
    for execution in live:
        needed += [
            (task, 1)
            for task in _required_tasks(runtime.app, execution.plan, still_needed(execution))
        ]
    count: dict[RequiredTask, int] = {}
    for task, sagas in needed:
        count[task] = count.get(task, 0) + sagas
    return tuple(replace(task, live=sagas) for task, sagas in count.items()), broken


def _runs_on(definition: SagaDefinition, app: Celery) -> bool:
    try:
        own = getattr(definition, "own_app", lambda: None)()
    except DefinitionError:
        return False
    return own is None or own is app


#: Whether the task of a step may still be sent in a direction.
StillNeeded = Callable[[Path, Direction], bool]

#: The records of a run by the path in the plan; of a loop those of all items.
Records = dict[Path, list[tuple[Path, SagaStepExecution]]]


def still_needed(execution: SagaExecution) -> StillNeeded:
    """Which tasks of a run may still be sent; of a loop that has begun all of its items count."""
    forward = execution.direction is Direction.FORWARD and execution.rollback_reason is None
    records: Records = {}
    for path, record in execution.steps.items():
        records.setdefault(execution.plan.first_of(path), []).append((path, record))

    def needed(path: Path, record: SagaStepExecution, direction: Direction) -> bool:
        if direction is Direction.FORWARD:
            ref = execution.ref(path)
            active = ref is not None and ref.direction is Direction.FORWARD
            ahead = record.status in _AHEAD and record.chosen is None  # a choice that is made
            return (forward and ahead) or active
        return record.status not in _DONE_WITH and (forward or record.needs_compensation)

    def answer(path: Path, direction: Direction) -> bool:
        found = records.get(path)
        if found:
            return any(needed(*each, direction) for each in found)
        return forward and not _passed_by(execution.plan, path, records)

    return answer


def _passed_by(plan: Plan, path: Path, records: Records) -> bool:
    """Whether a step is in an alternative that was not taken, or in a loop over nothing."""
    of = plan.committed(path) or path
    for depth in range(len(of)):
        known = [record.chosen for _, record in records.get(of[:depth], ())]
        node = plan.at(of[:depth])
        if not known or None in known:
            continue
        if isinstance(node, Choice | Wait) and of[depth] not in known:
            return True
        if isinstance(node, ForEach) and not any(known):
            return True
    return False


def _required_tasks(app: Celery, plan: Plan, needed: StillNeeded) -> Iterator[RequiredTask]:
    for path, call, direction in plan.calls():
        if not needed(path, direction):
            continue
        step, is_compensation = plan.step(path), direction is Direction.COMPENSATION
        task = app.tasks.get(call.task)
        yield RequiredTask(
            plan.saga,
            step.name,
            call.task,
            queue_of(app, call),
            is_compensation=is_compensation,
            needs_compensation=step.compensation is not None,
            reruns=is_compensation or call.rerun or (plan.pivot is not None and path >= plan.pivot),
            declared=task is not None and not is_wire_name(call.task),
            late=bool(task.acks_late if task is not None else call.rerun),
            soft_limit=_limit(app, task, call, "soft_time_limit"),
            hard_limit=_limit(app, task, call, "time_limit"),
            models=() if is_compensation else plan.models(path),
        )


def _limit(app: Celery, task: Any, call: Call, name: str) -> float | None:
    """A step's time limit: its message's, else its task's, else the app's."""
    found = call.options.get(name) or getattr(task, name, None) or app.conf[f"task_{name}"]
    return float(found) if found else None


def gather_task_timings(app: Celery) -> tuple[TaskTiming, ...]:
    """Gather how long the app's own tasks may run or wait, as far as it is known."""
    found = []
    for name, task in sorted(app.tasks.items()):
        if name.startswith("celery."):
            continue
        limits = [getattr(task, kind, None) for kind in ("time_limit", "soft_time_limit")]
        limits += [app.conf.task_time_limit, app.conf.task_soft_time_limit]
        longest = max((float(limit) for limit in limits if limit), default=None)
        timing = TaskTiming(name, longest if task.acks_late else None, _countdown(task))
        if timing.limit is not None or timing.countdown is not None:
            found.append(timing)
    return tuple(found)


def _countdown(task: Any) -> float | None:
    """The longest wait before one of Celery's automatic retries."""
    if not getattr(task, "autoretry_for", None):
        return None
    if getattr(task, "retry_backoff", False):
        return float(getattr(task, "retry_backoff_max", 600))
    given = (getattr(task, "retry_kwargs", None) or {}).get("countdown")
    return float(task.default_retry_delay if given is None else given)
