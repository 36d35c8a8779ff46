"""The log of effects: what it notes, and what it fails a test on."""

from __future__ import annotations

import re

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager
from celery_saga.testing import EffectLog, SagaKit

#: What doubles report, "+" for an effect and "-" for its compensation -> the problem.
PROBLEMS = {
    "": "",
    "+reserve1": "",
    "+reserve1 +charge2 -charge2 -reserve1": "",
    "+reserve1 +reserve2": "",
    "+reserve1 +reserve1": "reserve (1) was had twice with one idempotency key",
    "+reserve1 -reserve1 +reserve1": "reserve (1) was had twice with one idempotency key",
    "+reserve1 +charge2 -reserve1": (
        "reserve (1) was compensated before charge (2), which came later"
    ),
    "+reserve1 -reserve1 -reserve1": "reserve (1) was compensated a second time",
    "-reserve1": "reserve (1) was compensated though it had not happened",
    "+reserve1 -reserve2": "reserve (2) was compensated though it had not happened",
}


@pytest.mark.parametrize("reports", PROBLEMS)
def test_what_should_not_have_happened(reports: str) -> None:
    log, problem = EffectLog(), PROBLEMS[reports]
    for report in reports.split():
        note = log.did if report[0] == "+" else log.compensated
        note(report[1:-1], report[-1])
    if not problem:
        log.check()
        return
    with pytest.raises(AssertionError, match=re.escape(problem)):
        log.check()
    log.clear()
    log.check()


def test_in_any_order() -> None:
    log = EffectLog(ordered=False)
    log.did("reserve", "1")
    log.did("charge", "2")
    log.compensated("reserve", "1")
    log.check()
    assert [effect.what for effect in log.left] == ["charge"]
    with pytest.raises(AssertionError, match=r"charge \(2\) is left"):
        log.expect_nothing_left()


def test_outside_of_a_step_a_key_is_needed() -> None:
    log = EffectLog()
    for note in (log.did, log.compensated):
        with pytest.raises(ValueError, match="no step runs here: give the idempotency key"):
            note("reserve")


class Bank:
    """A saga of two steps whose doubles report to a log; one compensation may do nothing."""

    def __init__(self, log: EffectLog, lazy: bool = False) -> None:
        app = Celery("bank", broker="redis://nowhere.invalid", set_as_current=False)
        SagaManager(app)
        task = app.task

        @task(shared=False, name="take")
        def take() -> None:
            log.did("take")

        @task(shared=False, name="return")
        def give() -> None:
            if not lazy:
                log.compensated("take")

        @task(shared=False, name="book")
        def book() -> None:
            log.did("book")

        @task(shared=False, name="cancel")
        def cancel() -> None:
            log.compensated("book")

        @task(shared=False, name="last")
        def last() -> None:
            pass

        self.saga = Saga("bank", app=app)
        self.saga.local_step(take).on_failure(give)
        self.saga.local_step(book).on_failure(cancel)
        self.saga.local_step(last, read_only=True)
        self.saga.commit()


class TestInSagas:
    def test_keys_are_those_of_the_steps(self) -> None:
        kit = SagaKit()
        bank = kit.given(Bank(kit.effects).saga)
        run = bank.options(saga_id="order-7").expect_completed()
        assert [(it.what, it.key, it.saga_id) for it in kit.effects.left] == [
            ("take", "order-7/take/f/0", run.saga_id),
            ("book", "order-7/book/f/0", run.saga_id),
        ]
        kit.effects.check()

    def test_a_rollback_leaves_nothing(self) -> None:
        kit = SagaKit()
        bank = kit.given(Bank(kit.effects).saga)
        bank.step("last").fails().expect_compensated("book", "take")
        kit.effects.check()
        kit.effects.expect_nothing_left()

    def test_what_a_rollback_has_left_is_found(self) -> None:
        kit = SagaKit()
        bank = kit.given(Bank(kit.effects, lazy=True).saga)
        run = bank.step("last").fails().expect_compensated("book", "take")
        left = rf"take \({run.saga_id}/take/f/0\) is left, and its saga was rolled back"
        with pytest.raises(AssertionError, match=left):
            kit.effects.check()

    def test_a_rerun_without_a_look_at_its_key_is_found(self) -> None:
        kit = SagaKit()
        kit.given(Bank(kit.effects).saga).step("take").runs_twice().expect_completed()
        with pytest.raises(AssertionError, match="was had twice with one idempotency key"):
            kit.effects.check()

    def test_effects_of_other_sagas_do_not_count_for_the_order(self) -> None:
        kit = SagaKit()
        bank = kit.given(Bank(kit.effects).saga)
        run = bank.start()  # all of it is due now
        bank.step("last").fails().expect_compensated("book", "take")
        run.expect_completed()
        kit.effects.check()
