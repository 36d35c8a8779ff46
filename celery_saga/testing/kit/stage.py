"""An app without its servers: its sagas in memory, its messages in a list, its time on a clock."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.app.backends import by_url

from celery_saga.core.events import MessageState, Overdue
from celery_saga.core.execution import SagaExecution, SagaStatus, StepRef
from celery_saga.runtime import Report, runtime_of
from celery_saga.testing.kit.clock import VirtualClock
from celery_saga.testing.kit.outbox import Outbox, SentTask
from celery_saga.testing.kit.script import Script
from celery_saga.testing.kit.trail import Ran

_UNSETTLED = (SagaStatus.CREATED, SagaStatus.RUNNING, SagaStatus.PAUSED, SagaStatus.COMPENSATING)


@dataclass
class Queued:
    """A message that waits.

    Args:
        message: see :class:`SentTask`.
        at: when it can be taken at the earliest.
        step: the step's name; empty: of a task of the engine's own.
        ref: which dispatch of which step of the saga of that id.
    """

    message: SentTask
    at: float
    step: str = ""
    saga_id: str = ""
    ref: StepRef | None = None


#: Chooses the next of several messages that could be delivered now: its index.
Choose = Callable[[list[Queued]], int]


def first(ready: list[Queued]) -> int:
    """The one that was sent first."""
    return 0


def preferring(names: tuple[str, ...]) -> Choose:
    """The one whose step comes first in ``names``; then all others as they were sent."""

    def choose(ready: list[Queued]) -> int:
        ranks = [names.index(each.step) if each.step in names else len(names) for each in ready]
        return ranks.index(min(ranks))

    return choose


def shuffled(seed: int) -> Choose:
    """Any of them, the same ones for the same seed."""
    draw = random.Random(seed)
    return lambda ready: draw.randrange(len(ready))


class Stage:
    """Takes the place of an app's broker, result backend, store and workers.

    Args:
        app: the Celery app; it has a ``SagaManager``.
        clock: the time of its sagas.

    Raises:
        SetupError: the app has no ``SagaManager``.
    """

    def __init__(self, app: Celery, clock: VirtualClock) -> None:
        self.app, self.clock = app, clock
        self.runtime = runtime_of(app)
        self.orchestrator = self.runtime.new_orchestrator(clock=clock)
        self.store = self.orchestrator.store
        #: Messages of steps, and of the engine's own tasks, in the order in which they were sent.
        self.queued: list[Queued] = []
        #: Other tasks that bodies have sent; they are not run.
        self.sent: list[SentTask] = []
        #: What happens to the steps of a saga, and what has run of it, by its id.
        self.scripts: dict[str, Script] = {}
        self.trails: defaultdict[str, list[Ran]] = defaultdict(list)
        find: Any = by_url
        backend, url = find("cache+memory://", app.loader)
        self._backend: Any = backend(app=app, url=url)
        self._outbox = Outbox(self._take)
        self._inside = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let the app use this stage; it has its own servers again afterwards."""
        if self._inside:
            yield
            return
        self.app.finalize()
        self.runtime.verify(self.app)
        self._inside += 1
        try:
            with self.runtime.replaced(self.orchestrator, _Reports(self)), self._without_servers():
                yield
        finally:
            self._inside -= 1

    @contextmanager
    def _without_servers(self) -> Iterator[None]:
        app: Any = self.app
        backend, pool = app._backend_cache, app.amqp._producer_pool
        eager = app.conf.task_always_eager
        app._backend_cache, app.amqp._producer_pool = self._backend, self._outbox
        if eager:
            app.conf.task_always_eager = False
        try:
            yield
        finally:
            app._backend_cache, app.amqp._producer_pool = backend, pool
            if eager:
                app.conf.task_always_eager = eager

    def _take(self, message: SentTask) -> None:
        """Queue a message of the engine's; keep any other one for the test to look at."""
        found = StepRef.parse(message.id)
        execution = None if found is None else self.store.load(found[0])
        if found is not None and execution is not None:
            (saga_id, ref), step = found, execution.plan.name_of(found[1].path)
            self.queued.append(Queued(message, self.clock(), step, saga_id, ref))
        elif message.name.startswith("celery_saga."):
            self.queued.append(Queued(message, self.clock()))
        else:
            self.sent.append(message)

    def expected_at(self, queued: Queued) -> float:
        """When a message can be taken: of a retry when the step's record says so."""
        execution = self.store.load(queued.saga_id) if queued.saga_id else None
        step = None if execution is None or queued.ref is None else execution.at_step(queued.ref)
        return max(queued.at, (step and step.expected_at) or 0.0)

    def ready(self) -> list[Queued]:
        """The messages that can be taken now."""
        now = self.clock()
        return [each for each in self.queued if self.expected_at(each) <= now]

    def check_due(self) -> None:
        """Do what a worker's sweep does for the sagas that are due now."""
        for saga_id in self.store.due(1000):
            self.check(self.orchestrator.load(saga_id))

    def check(self, execution: SagaExecution) -> None:
        """Check a saga that is due; a message that is not queued is lost, and is sent again."""
        there = {each.ref for each in self.queued if each.saga_id == execution.saga_id}
        states = {
            ref: MessageState.WAITING if ref in there else MessageState.LOST_WITH_WORKER
            for ref in execution.active
        }
        event = Overdue(self.clock(), messages=states)
        self.orchestrator.apply(execution.saga_id, event, execution)

    def next_time(self) -> float | None:
        """When something can happen next; ``None``: nothing will by itself."""
        times = [self.expected_at(each) for each in self.queued]
        for execution in self.unsettled():
            if execution.due_at is not None and self._waits_for_time(execution):
                times.append(execution.due_at)
        return min(times, default=None)

    def unsettled(self) -> list[SagaExecution]:
        """The sagas that have not ended."""
        ids = [saga_id for status in _UNSETTLED for _, saga_id in self.store.find(status, 1000)]
        return [self.orchestrator.load(saga_id) for saga_id in ids]

    def _waits_for_time(self, execution: SagaExecution) -> bool:
        if execution.active or execution.deadline is not None:
            return True
        records = [execution.steps[path] for path, _ in execution.steps.items()]
        return any(record.not_before is not None for record in records)


class _Reports:
    """Takes reports of deliveries as a worker's heartbeat does, and applies them at once."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def submit(self, saga_id: str, report: Report, run_id: str | None) -> bool:
        """Apply a report."""
        stage = self._stage
        stage.orchestrator.apply(saga_id, report(stage.clock()), run_id=run_id)
        return True

    def stop(self) -> None:
        """There is nothing to end."""

    def stop_when_idle(self) -> None:
        """There is nothing to end."""
