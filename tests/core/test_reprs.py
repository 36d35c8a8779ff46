"""What a failed assertion shows of an execution: ten lines that an operator can read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager, SagaResult
from celery_saga.core.context.data import PartialValues
from celery_saga.core.reprs import WIDTH
from celery_saga.core.steps import Steps


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("reprs", broker="memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, saga_store_url="memory://")
    SagaManager(app)
    yield app
    app.close()


def run(app: Celery, steps: int, fails: int = -1, **context: Any) -> SagaResult:
    @app.task(name="reprs.step", shared=False)
    def step() -> None: ...

    @app.task(name="reprs.fails", shared=False)
    def failing() -> None:
        raise ValueError("line one\nline two " + "x" * 1000)

    saga = Saga("reprs", app=app)
    for number in range(steps):
        chosen = failing if number == fails else step
        saga.local_step(chosen, name=f"s{number}", read_only=True)
    return saga.commit().delay(**context)


def lines(result: SagaResult) -> list[str]:
    return repr(result.execution).splitlines()


def test_of_a_saga_that_failed(app: Celery) -> None:
    result = run(app, 3, fails=1, order_id=7, card_number="4111")
    found = lines(result)
    assert found[0] == f"<SagaExecution 'reprs' {result.id}: COMPENSATED"
    assert found[1].startswith("  failed at step 's1': builtins.ValueError: line one line two xxx")
    assert found[2] == "  s0: SUCCEEDED"
    assert found[3].startswith("  s1: FAILED (builtins.ValueError: line one line two")
    assert found[4] == "  s2: PENDING"
    assert found[5:] == ["  context: order_id, card_number>"]


def test_no_values_are_in_it(app: Celery) -> None:
    assert "4111" not in repr(run(app, 1, note="4111").execution)


@pytest.mark.parametrize("steps", [1, 5, 6, 60])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_it_fits_ten_lines(app: Celery, steps: int, place: float) -> None:
    fails = int((steps - 1) * place)
    keys = {f"key_{number}": number for number in range(100)}
    found = lines(run(app, steps, fails, **keys))
    assert len(found) <= 10
    assert max(map(len, found)) < 2 * WIDTH
    assert any(line.startswith(f"  s{fails}: FAILED") for line in found)
    hidden = sum(int(line.split()[1][1:]) for line in found if line.startswith("  ..."))
    shown = sum(line.startswith("  s") for line in found)
    assert hidden + shown == steps


def test_of_a_part(app: Celery) -> None:
    """Of what was not read it says so, and does not raise."""
    whole = run(app, 3, order_id=7).execution
    steps = Steps(whole.plan, {(1,): whole.steps[1]}, whole=False)
    part = replace(whole, steps=steps, values=PartialValues({}, owner=whole.saga_id))
    assert repr(part).splitlines()[1:] == [
        *("  s0: not read", "  s1: SUCCEEDED", "  s2: not read", "  context: not read>"),
    ]


def test_of_names_without_end(app: Celery) -> None:
    whole = run(app, 1).execution
    plan = replace(
        whole.plan, saga="s" * 999, steps=(replace(whole.plan.steps[0], name="n" * 999),)
    )
    assert max(map(len, repr(replace(whole, plan=plan)).splitlines())) < 2 * WIDTH


def test_a_step_shows_what_there_is(app: Celery) -> None:
    step = run(app, 1).execution.steps[0]
    assert repr(step).startswith("SagaStepExecution(name='s0', status=<StepStatus.SUCCEEDED")
    assert "compensation_error" not in repr(step)
    assert "retries=0" not in repr(step)
