"""What a task's own retry changed about its message, after things went wrong."""

from __future__ import annotations

from typing import Any

from celery_saga.core import events as ev
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.execution import Direction, SagaStatus
from tests.core.scenario import Scenario


def released(scenario: Scenario, index: int, **revised: Any) -> ev.StepReleased:
    """The step's task asks Celery for a retry which changes its message."""
    step, ref = scenario.execution.steps[index], scenario.execution.ref(index)
    assert ref is not None
    assert step.claim is not None
    now = scenario.now
    return ev.StepReleased(now, ref, step.claim.token, step.retries + 1, now, revised=revised)


def test_an_operators_retry_of_a_compensation_reads_the_corrected_context() -> None:
    scenario = Scenario.of("a>x b").play("start, f0 ok x=1, f1 fails, c0 claimed")
    scenario.decide(released(scenario, 0, kwargs={"x": "wrong"}))
    while scenario.execution.status is not SagaStatus.STUCK:
        scenario.play("wait 100, overdue, c0 void")

    scenario.play("retry x=right")

    call = call_of(scenario.execution, (0,), Direction.COMPENSATION)
    inputs = scenario.execution.inputs_of(0, Direction.COMPENSATION)
    assert call.texts(inputs) == {"x": '"right"'}


def test_an_operators_retry_of_a_step_reads_the_corrected_context() -> None:
    scenario = Scenario.of("a* b<x").play("start, f0 ok x=1, f1 claimed")
    scenario.decide(released(scenario, 1, kwargs={"x": "wrong"}))
    while scenario.execution.status is not SagaStatus.STUCK:
        scenario.play("wait 100, overdue, f1 void")

    scenario.play("retry x=right")

    call = call_of(scenario.execution, (1,), Direction.FORWARD)
    assert call.texts(scenario.execution.inputs_of(1, Direction.FORWARD)) == {"x": '"right"'}


def test_a_retry_that_is_claimed_before_it_is_reported_keeps_what_it_changed() -> None:
    """Celery sends the retry inside ``self.retry()``; another process may be quicker."""
    scenario = Scenario.of("a").play("start, f0 claimed")
    report = released(scenario, 0, options={"queue": "other"})
    scenario.play("f0/1 claimed")

    scenario.decide(report)
    scenario.play("f0 void")

    call = call_of(scenario.execution, (0,), Direction.FORWARD)
    assert call.options == {"queue": "other"}


def test_a_second_copy_of_that_report_changes_nothing() -> None:
    scenario = Scenario.of("a").play("start, f0 claimed")
    report = released(scenario, 0, options={"queue": "other"})
    scenario.play("f0/1 claimed")
    scenario.decide(report)

    scenario.decide(report)

    assert scenario.unchanged
