"""Each attempt of a step and of its compensation is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_saga.core.context.lazy import UNREAD, NotLoaded, Unread
from celery_saga.core.decide.transitions import noted
from celery_saga.core.execution import SagaExecution
from celery_saga.core.state import ATTEMPT_ERROR, ATTEMPTS_KEPT
from tests.core.scenario import Scenario


def attempts(execution: SagaExecution, index: int) -> list[str]:
    """The attempts of a step: number, letter of the task, worker instance and outcome."""
    return [
        f"{each.number}{each.direction} {each.instance} {each.outcome}"
        for each in execution.steps[index].log
    ]


@pytest.mark.parametrize(
    ("shape", "script", "expected"),
    [
        ("a", "start", []),
        ("a", "start, f0 claimed", []),
        ("a", "start, f0 ok", ["1f worker SUCCEEDED"]),
        ("a b", "start, f0 ok, f1 fails, c0 ok", ["1f worker SUCCEEDED", "2c worker SUCCEEDED"]),
        ("a", "start, f0 claimed, f0 released 1", ["1f worker RETRIED"]),
        ("a", "start, f0 void, f0 ok", ["1f worker LOST", "2f worker SUCCEEDED"]),
        (
            "a%3",
            "start, f0 fails, wait 8, overdue, f0 ok",
            ["1f worker FAILED", "2f worker SUCCEEDED"],
        ),
        ("a", "start, f0 revoked", []),
        ("a", "start, f0 claimed, f0 revoked", ["1f worker REVOKED"]),
        ("a", "start, f0 claimed, cancel", []),
        ("a", "start, f0 claimed, cancel, f0 ok", ["1f worker SUCCEEDED"]),
        ("a", "start, f0 unbegun", []),
    ],
)
def test_which_attempts_are_kept(shape: str, script: str, expected: list[str]) -> None:
    scenario = Scenario.of(shape).play(script)

    assert attempts(scenario.execution, 0) == expected


def test_what_an_attempt_says() -> None:
    scenario = Scenario.of("a").play("start, wait 5, f0 claimed, wait 3, f0 fails")

    (attempt,) = scenario.execution.steps[0].log
    # A second passes with each word.
    assert (attempt.claimed_at, attempt.ended_at) == (1_008.0, 1_013.0)
    assert attempt.error == "Boom: it broke"


def test_a_second_report_is_not_a_second_attempt() -> None:
    scenario = Scenario.of("a b").play("start, f0 ok, f0~1 ok")

    assert attempts(scenario.execution, 0) == ["1f worker SUCCEEDED"]


def test_the_newest_are_kept() -> None:
    scenario = Scenario.of("a^ b").play("start")
    for _ in range(ATTEMPTS_KEPT + 5):
        scenario.play("f0 fails, wait 9000, overdue")

    log = scenario.execution.steps[0].log
    assert [each.number for each in log] == [*range(6, ATTEMPTS_KEPT + 6)]
    assert all(len(each.error) <= ATTEMPT_ERROR for each in log)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("start", "queued"),
        ("start, f0 claimed", "running"),
        ("start, f0 ok", ""),
        ("start, f0 fails", ""),
    ],
)
def test_queued_or_running(script: str, expected: str) -> None:
    assert Scenario.of("a%3 b").play(script).execution.activity(0) == expected


def test_a_history_is_added_to_without_being_read() -> None:
    execution = replace(Scenario.of("a").play("start").execution, history=UNREAD)

    once = noted(execution, 1.0, "pause", "ann")
    twice = noted(once, 2.0, "resume", "ann")

    assert isinstance(twice.history, Unread)
    assert [note.what for note in twice.history.added_since(UNREAD)] == ["pause", "resume"]
    assert [note.what for note in twice.history.added_since(once.history)] == ["resume"]
    with pytest.raises(NotLoaded):
        list(twice.history)
