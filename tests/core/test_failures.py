"""Recorded failures become exceptions again, and nothing else happens on the way."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celery_saga import (
    AbortSaga,
    SagaCompensated,
    SagaError,
    SagaExecution,
    SagaFailedExecutionStepException,
    SagaRollbackExecutionException,
    SagaStatus,
    SagaStuck,
    StepStatus,
)
from celery_saga.core.checkpoint import record_to_dict, step_from_dict
from celery_saga.core.failures import exception_of, recorded
from celery_saga.core.plan import Call, Plan, PlanStep
from celery_saga.core.state import Failure, SagaStepExecution
from celery_saga.errors import (
    BadItems,
    BadStepResult,
    BlockedByCompensation,
    JoinConflict,
    MissingInput,
    SignalTimeout,
    UnsendableStep,
    UnserializableValue,
)
from celery_saga.messaging.outcome import failure_of
from tests.core.scenario import Scenario


class Declined(Exception):
    pass


class Outer:
    class Inner(ValueError):
        pass


class TwoArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code, self.text = code, text

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


class Default(Exception):
    def __init__(self, text: str = "timed out") -> None:
        super().__init__(text)


class Hostile(Exception):
    def __init__(self, *args: Any) -> None:
        raise RuntimeError("not with me")


class NoHeirs(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two)

    def __init_subclass__(cls) -> None:
        raise TypeError("no heirs")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        ValueError(),
        KeyError("order_id"),
        KeyError(7),
        OSError(2, "not there"),
        AbortSaga("enough"),
        Declined("with 'quotes' and an é"),
        Outer.Inner("deep"),
        Default(),
        TwoArguments(5, "x"),
    ],
    ids=repr,
)
def test_class_and_text_come_back(error: Exception) -> None:
    back = exception_of(recorded(error, "a"))
    assert isinstance(back, type(error))
    assert type(back).__qualname__.rpartition(".")[2] == type(error).__name__
    assert str(back) == str(error)
    assert "".join(traceback.format_exception_only(back))


def test_simple_ones_are_equal_in_their_arguments() -> None:
    for error in (ValueError("no"), ValueError(), KeyError("order_id"), KeyError(7)):
        back = exception_of(recorded(error, "a"))
        assert (type(back), back.args) == (type(error), error.args)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("shop.errors.Removed", Exception),
        (f"{__name__}.NoSuchClass", Exception),
        (f"{__name__}.function.<locals>.Local", Exception),
        ("Cancelled", SagaError),
        ("", SagaError),
        (f"{__name__}.Hostile", Hostile),
        (f"{__name__}.NoHeirs", Exception),
        # What is not an exception is never called.
        ("builtins.print", Exception),
        ("builtins.SystemExit", Exception),
        ("os.system", Exception),
        (__name__, Exception),
    ],
)
def test_namesakes(name: str, base: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    back = exception_of(Failure(name, "echo it"))
    assert isinstance(back, base)
    assert not isinstance(back, SystemExit)
    assert str(back) == "echo it"
    assert type(back).__name__ == (name.rpartition(".")[2] or "Failure")
    assert capsys.readouterr().out == ""


def test_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "never_imported.py").write_text("class Boom(Exception): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    back = exception_of(Failure("never_imported.Boom", "x"))
    assert type(back).__name__ == "Boom"
    assert "never_imported" not in sys.modules


def settled(status: SagaStatus, compensation: Failure | None = None) -> SagaExecution:
    plan = Plan("s", (PlanStep("a", Call("do"), Call("compensation")), PlanStep("b", Call("do"))))
    execution = SagaExecution.create("id", plan, {}, at=0.0)
    execution = replace(execution, status=status, error=recorded(Declined("no"), "b"))
    if compensation is not None:
        execution = execution.with_step(
            0, status=StepStatus.COMPENSATION_FAILED, compensation_error=compensation
        )
    return execution


class TestOfASaga:
    def test_that_was_compensated(self) -> None:
        error = failure_of(settled(SagaStatus.COMPENSATED))
        assert type(error) is SagaCompensated
        assert isinstance(error, SagaFailedExecutionStepException)
        assert not isinstance(error, SagaRollbackExecutionException)
        assert isinstance(error.exception, Declined)
        assert error.exception is error.__cause__

    def test_of_which_an_compensation_failed(self) -> None:
        error = failure_of(settled(SagaStatus.STUCK, recorded(KeyError("k"), "a")))
        assert type(error) is SagaStuck
        assert isinstance(error, SagaFailedExecutionStepException)
        assert isinstance(error, SagaRollbackExecutionException)
        assert isinstance(error.exception, KeyError)
        assert isinstance(error.exception.__context__, Declined)
        shown = "".join(traceback.format_exception(error))
        assert shown.index("Declined: no") < shown.index("KeyError: 'k'") < shown.index("SagaStuck")

    def test_that_is_stuck_on_its_way_forward(self) -> None:
        error = failure_of(settled(SagaStatus.STUCK))
        assert isinstance(error.exception, Declined)

    def test_that_recorded_nothing(self) -> None:
        error = failure_of(replace(settled(SagaStatus.STUCK), error=None))
        assert error.exception is None


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("start, f0 ok, f1 killed, c1 ok, c0 ok", "COMPENSATED"),
        ("start, f0 ok, f1 claimed, f1 revoked, c1 ok, c0 ok", "COMPENSATED"),
        ("start, f0 ok, f1 dropped, c0 ok", "COMPENSATED"),
        ("start, f0 ok, f1 claimed, f1 died, c1 ok, c0 ok", "COMPENSATED"),
        ("start, f0 ok, f1 void, c1 ok, c0 ok", "COMPENSATED"),
        ("start, f0 ok, f1 fails, c0 ok", "COMPENSATED"),
        ("start, f0 ok, f1 ok, f2 fails, c1 killed, c0 ok", "STUCK"),
        ("start, f0 ok, f1 ok, f2 fails, c1 claimed, c1 revoked, c0 ok", "STUCK"),
        ("start, f0 ok, f1 ok, f2 fails, c1 dropped, c0 ok", "STUCK"),
    ],
)
def test_who_reports_a_failure_does_not_matter_to_the_name_of_its_step(
    script: str, status: str
) -> None:
    """A worker's main process knows the id of the task and nothing else."""
    played = Scenario.of("a b! c-", compensation_tries=1).play(script)
    error = failure_of(played.execution)
    assert (played.execution.status, error.step) == (status, "b")
    assert "step 'b'" in str(error)


class TestOwnErrors:
    """Errors of this library come back with their attributes."""

    @pytest.mark.parametrize(
        "error",
        [
            JoinConflict("total", "a", "b"),
            BadItems("context['lines']", "nothing there"),
            BadItems("context['lines']", "1001 items", 1000),
            SignalTimeout("approved[7]", 2.5),
            MissingInput("total", "charge", "shop.charge"),
            BadStepResult("charge", "a mapping", "int from task 'shop.charge'"),
            UnserializableValue("context['x']", "a set"),
            UnsendableStep("charge", "shop.charge", "it cannot be sent"),
            BlockedByCompensation("s/pay/f/0"),
            AbortSaga("no"),
            AbortSaga(),
        ],
        ids=lambda error: f"{type(error).__name__}{error.args}",
    )
    def test_row(self, error: Exception) -> None:
        step = SagaStepExecution("a", error=recorded(error, "a"))
        data = json.loads(json.dumps(record_to_dict(step)))
        failure = step_from_dict(data).error
        assert failure == step.error
        assert failure is not None
        found = exception_of(failure)
        assert type(found) is type(error)
        assert (found.args, vars(found), str(found)) == (error.args, vars(error), str(error))

    def test_values_that_are_not_plain_are_not_kept(self) -> None:
        failure = recorded(AbortSaga({"card": "4242"}), "a")
        assert failure.arguments == ()
        assert str(exception_of(failure)) == "{'card': '4242'}"

    def test_arguments_of_another_version_are_left_out(self) -> None:
        failure = replace(recorded(BlockedByCompensation("k"), "a"), arguments=("k", 2))
        found = exception_of(failure)
        assert isinstance(found, BlockedByCompensation)
        assert str(found) == failure.message

    def test_of_a_user_none_are_kept(self) -> None:
        class Own(AbortSaga):
            pass

        assert recorded(Own("x"), "a").arguments == ()
        assert recorded(TwoArguments(1, "x"), "a").arguments == ()

    def test_a_missing_input_has_its_key(self) -> None:
        error = Scenario.of("a b<total").play("start, f0 ok").execution.rollback_reason
        assert error is not None
        found = exception_of(error)
        assert isinstance(found, MissingInput)
        assert (found.key, found.step, found.task) == ("total", "b", "do.b")
