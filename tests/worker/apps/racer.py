"""A process that carries out a command at a given moment: one line in, one line out.

Each line names a verb, its arguments, and when to begin on the machine's one monotonic clock. Until
then the process spins, so that several of them begin within microseconds of each other.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from celery import Celery

from celery_saga import Saga, SagaManager
from celery_saga.core.events import StepSucceeded
from celery_saga.core.execution import Claim, StepRef
from celery_saga.core.ports import HeartbeatReply, Refused
from celery_saga.core.recovery.policy import RecoveryPolicy
from celery_saga.core.recovery.sweep import Sweeper
from celery_saga.runtime import runtime_of
from tests.worker.apps import steps

__all__ = ["steps"]

app = Celery("racer")
sagas = SagaManager(app)
app.config_from_object("tests.worker.apps.settings")

#: A sweep is not cut short, however busy the machine is.
PATIENT = RecoveryPolicy(sweep_heartbeats=30.0)

race = Saga("race", app=app)
race.local_step(steps.late, name="only")
race.commit()


def reach(at: float) -> None:
    while time.monotonic() < at:
        pass


def start(at: float, saga_id: str) -> bool:
    reach(at)
    return race.apply_async({}, saga_id=saga_id).created


def cancel(at: float, saga_id: str) -> bool:
    result = sagas.get(saga_id)
    reach(at)
    return result.cancel("race", by="racer")


def commit(at: float, saga_id: str, ref: str) -> bool:
    """What a worker does whose step has returned: the step was claimed well before."""
    orchestrator = runtime_of(app).orchestrator
    _, place = StepRef.parse(f"{saga_id}~{ref}") or ("", None)
    assert place is not None
    known = orchestrator.claim(saga_id, place, Claim(f"token of {saga_id}", "instance"))
    assert not isinstance(known, Refused), known
    reach(at)
    event = StepSucceeded(orchestrator.store.now(), place, f"token of {saga_id}")
    return orchestrator.apply(saga_id, event, known)[1]


def sweep(at: float) -> int:
    runtime = runtime_of(app)
    inspector = runtime.inspector(runtime.orchestrator)
    sweeper = Sweeper(runtime.orchestrator, inspector, PATIENT)
    reach(at)
    return sweeper.sweep()


def reclaim(at: float, instance: str) -> int:
    orchestrator = runtime_of(app).orchestrator
    inspector = runtime_of(app).inspector(orchestrator)
    sweeper = Sweeper(orchestrator, inspector, PATIENT)
    reply = HeartbeatReply(orchestrator.store.now(), (instance,), True, ())
    reach(at)
    return sweeper.reclaim(reply)


VERBS: dict[str, Any] = {verb.__name__: verb for verb in (start, cancel, commit, sweep, reclaim)}


def main() -> None:
    runtime_of(app).store.now()  # connected before the first race
    print("ready", flush=True)
    for line in sys.stdin:
        verb, at, *args = json.loads(line)
        print(json.dumps(VERBS[verb](at, *args)), flush=True)


if __name__ == "__main__":
    main()
