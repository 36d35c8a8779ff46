"""A report that changes nothing, because its step has been run elsewhere, is told of in the log."""

from __future__ import annotations

import logging

from celery_saga.decide.events import ClaimVoided, StepSucceeded
from celery_saga.execution import Claim, SagaExecution, SagaStatus
from celery_saga.orchestrator import Orchestrator
from celery_saga.stores.memory import MemoryStore
from tests.unit.scenario import plan_of
from tests.unit.test_sweep import Queue

LATE = "the report of f0"


def succeed(orchestrator: Orchestrator, claimed: SagaExecution, token: str) -> SagaExecution:
    slot = claimed.slot(0)
    assert slot is not None
    return orchestrator.report("s", StepSucceeded(1_000.0, slot, token), claimed)


def test_it_is_told_of(caplog):
    orchestrator = Orchestrator(MemoryStore(lambda: 1_000.0), Queue(), patience=0.0)
    execution, _ = orchestrator.start(plan_of("a"), "s", {}, token="start")
    first = orchestrator.claim("s", execution.slot(0), Claim("one", "boot"))
    void = ClaimVoided(1_000.0, execution.slot(0), instance="boot")
    again = orchestrator.handle("s", void)
    second = orchestrator.claim("s", again.slot(0), Claim("two", "other boot"))

    with caplog.at_level(logging.WARNING, "celery_saga"):
        assert succeed(orchestrator, second, "two").status is SagaStatus.COMPLETED
        assert LATE not in caplog.text
        assert succeed(orchestrator, first, "one").status is SagaStatus.COMPLETED

    assert LATE in caplog.text
