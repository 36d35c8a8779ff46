"""Sagas that only recovery can move, each by a path of its own, for tables of crash points."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_saga import Saga
from celery_saga.core.context.data import encoded
from celery_saga.result import SagaResult
from celery_saga.runtime import runtime_of
from celery_saga.start import StartRequest, start
from celery_saga.testing.processes import ManagedProcess
from tests.worker.apps import crashing_steps as tasks
from tests.worker.crashes import order
from tests.worker.harness import ROOT

APP = "tests.worker.apps.crashing"

#: A worker that looks dead soon, and one that never does.
FRAIL = {"saga_heartbeat": 0.05, "saga_heartbeat_ttl": 0.5}
STURDY = {"saga_heartbeat": 0.2, "saga_heartbeat_ttl": 30.0}

#: Pauses of the engine's own retries.
SOON = {"retry_backoff": 0.1, "retry_backoff_max": 0.1}


@dataclass(frozen=True)
class Row:
    """A step: names of its tasks, and their options."""

    task: Any = tasks.late
    back: Any = tasks.compensation
    options: Mapping[str, Any] = field(default_factory=dict)
    back_options: Mapping[str, Any] = field(default_factory=dict)


def row(
    task: Any = tasks.late,
    back: Any = tasks.compensation,
    back_queue: str = "",
    compensation: Mapping[str, Any] | None = None,
    **options: Any,
) -> Row:
    # A step's queue would be its compensation's as well.
    given = {
        "queue": "celery",
        **(compensation or {}),
        **({"queue": back_queue} if back_queue else {}),
    }
    return Row(task, back, options, given)


@dataclass(frozen=True, eq=False)
class Path:
    """How a saga comes to a write of recovery, and what becomes of it wherever that is struck.

    Args:
        place: the event, and what its save does.
        status: in which it ends.
        bodies: that run in all, as :func:`tests.worker.crashes.bodies` reads it.
        steps: a, b, ...
        trouble: what happens to it before anybody sweeps.
        context: the instructions for its bodies.
        run: options of its start.
        grace: seconds for which a task that no worker knows is offered.
        signal: for which it waits after its steps; empty: for none.
    """

    place: str
    status: str
    bodies: str
    steps: tuple[Row, ...] = (row(), row())
    trouble: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    grace: float = 600.0
    signal: str = ""

    def saga(self, site: Any, queue: str = "") -> Saga:
        """Its definition; ``queue`` is that of all steps that are marked ``own``."""
        site.app.conf.saga_unknown_task_grace = self.grace
        saga = Saga("crashing", app=site.app)
        for name, each in zip("abcd", self.steps, strict=False):
            step = saga.local_step(each.task, name=name, **_placed(each.options, queue))
            if each.back is not None:
                step.on_failure(each.back, **_placed(each.back_options, queue))
        if self.signal:
            saga.wait_for(self.signal)
        return saga.commit()

    def start(self, site: Any, *places: str, queue: str = "") -> Any:
        """Start it, with orders for those who are to die."""
        saga_id = uuid.uuid4().hex
        order(site, saga_id, *places)
        return self.saga(site, queue).apply_async(self.context, saga_id=saga_id, **self.run)

    def start_with_callers(self, site: Any, *places: str) -> Any:
        """The same, for a caller with a callback."""
        saga_id, runtime = uuid.uuid4().hex, runtime_of(site.app)
        order(site, saga_id, *places)
        callback = tasks.record.s(saga_id)
        plan = runtime.plans.of(self.saga(site))
        callbacks = {"callbacks": [dict(callback.set(task_id=uuid.uuid4().hex))]}
        request = StartRequest(runtime, plan, encoded(self.context), saga_id, callbacks=callbacks)
        start(request)
        return SagaResult(runtime, saga_id)


def _placed(options: Mapping[str, Any], queue: str) -> dict[str, Any]:
    found = dict(options)
    return {**found, "queue": queue} if found.get("queue") == "own" else found


class Forked:
    """Workers that one process forks; see :mod:`tests.worker.apps.crashing_workers`."""

    def __init__(self, site, role, *options, again=False, **settings):
        self.log = site.folder / f"{role.strip()}-{id(self)}.log"
        command = [sys.executable, "-m", "tests.worker.apps.crashing_workers"]
        command += ["again"] if again else ["once"]
        env = {"SAGA_TEST_ROLE": role, "PYTHONPATH": str(ROOT), **site.environment(**settings)}
        self.process = ManagedProcess(
            [*command, json.dumps(options)],
            env={**os.environ, **env},
            cwd=str(ROOT),
            log=str(self.log),
        )
        site.workers.append(self)

    def kill(self):
        self.process.kill()
