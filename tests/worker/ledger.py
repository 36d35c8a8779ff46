"""What must not depend on where a saga ran: its bodies and their keys, and how it ended."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError

from celery_saga import SagaManager, SagaResult
from celery_saga.errors import SagaExecutionNotFoundException
from tests.worker.apps.sagas import EVERY, Scenario, build
from tests.worker.harness import QUICK, Journal

Record = dict[str, Any]

#: The step at which a deadline was found to have passed: the one that ran, if a sweep came before
#: its end, and the next one otherwise.
NOTICED = re.compile(r"Cause\(step='\w+', (error=.{0,2}DeadlineExceeded: [^']* step) '\w+' ended")

#: Of the apps that run the scenarios.
SETTINGS = {**QUICK, "saga_unknown_task_grace": 0}


def begin(app: Celery, name: str) -> SagaResult:
    """Start the saga of a scenario."""
    scenario = EVERY[name]
    result = build(app, name).apply_async(scenario.context, **scenario.start)
    if name == "cancelled before it starts":
        assert result.cancel()
    return result


def record(journal: Journal, result: SagaResult, timeout: float = 40) -> Record:
    """The facts of a settled saga, without its id; plain JSON."""
    result.get(timeout=timeout, propagate=False)
    execution = result.execution
    facts: Record = {
        "bodies": [
            {name: value for name, value in line.items() if name != "pid"}
            for line in journal.of(result.id)
        ],
        "status": execution.status.value,
        "context": dict(execution.context),
        "error": execution.error and execution.error.type,
        "steps": [
            {
                "status": step.status.value,
                "error": step.error and str(step.error),
                "compensation error": step.compensation_error and str(step.compensation_error),
                "attempts": step.attempts,
                "rounds": (step.round, step.compensation_round),
                "lost": step.lost,
                "effect": step.effect,
            }
            for step in execution.steps
        ],
    }
    text = json.dumps(facts, default=str).replace(result.id, "<saga>")
    text = NOTICED.sub(r"Cause(step='<active>', \1 '<active>' ended", text)
    facts = json.loads(text)
    child = f"{result.id}-child"
    if "child" in facts["context"]:
        manager = SagaManager(result._runtime.app)
        facts["child"] = record(journal, manager.get(child), timeout)
    return facts


def expect(found: Record, scenario: Scenario) -> None:
    """What is written down of the scenario is what happened."""
    began = [line for line in found["bodies"] if line["what"] == "began"]
    assert [f"{line['step']}/{line['direction']}" for line in began] == scenario.began
    assert found["status"] == scenario.status
    for line, body in zip(began, scenario.began, strict=True):
        assert line["idempotency_key"] == f"{line['saga_id']}/{body}/0"
    errors = [step[key] for step in found["steps"] for key in ("error", "compensation error")]
    text = " ".join(str(error) for error in (found["error"], *errors))
    assert [word for word in scenario.says if word not in text] == [], text
    assert scenario.ends in (None, found["context"])
    assert not scenario.last or scenario.last.items() <= began[-1].items()
    attempts = tuple(line["attempt"] for line in began)
    assert not scenario.attempts or attempts[-len(scenario.attempts) :] == scenario.attempts


def records(
    journal: Journal, app: Celery, names: Iterable[str], timeout: float = 40
) -> dict[str, Record]:
    """All at once, those with a deadline after the others; one that does not end is missing."""
    found, names = {}, set(names)
    hurried = {name for name in names if "deadline" in EVERY[name].start}
    for some in (names - hurried, hurried):
        results = {name: begin(app, name) for name in some}
        for name, result in results.items():
            with contextlib.suppress(TimeoutError, SagaExecutionNotFoundException):
                found[name] = record(journal, result, timeout)
    return found
