"""Which transitions observers get, and that observers change nothing."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager
from celery_saga.core.events import Alert, Subject, Transition
from celery_saga.core.execution import Direction, StepRef
from celery_saga.runtime import runtime_of

FIELDS = ("saga_id", "saga_name", "step", "attempt")


class Notes:
    """An observer that keeps the transitions."""

    details = True

    def __init__(self) -> None:
        self.seen: list[Transition] = []

    def observe(self, transition: Transition) -> None:
        self.seen.append(transition)

    def lines(self) -> list[str]:
        return [
            " ".join(filter(None, [each.subject.value, each.step, each.before, "->", each.after]))
            for each in self.seen
        ]


class Broken:
    """An observer that cannot do its work."""

    details = True

    def observe(self, transition: Transition) -> None:
        raise ConnectionError("the collector is unavailable")


class Shop:
    """An app without workers whose sagas run eagerly; a step of it fails if that is asked for."""

    def __init__(self) -> None:
        self.app = Celery(
            "shop", set_as_current=False, broker="memory://", backend="cache+memory://"
        )
        self.app.conf.update(saga_store_url="memory://", task_always_eager=True)
        SagaManager(self.app)
        self.notes = Notes()
        runtime_of(self.app).observers.append(self.notes)

        @self.app.task(name="take", shared=False)
        def take() -> None: ...

        @self.app.task(name="put_back", shared=False)
        def put_back() -> None: ...

        @self.app.task(
            name="pay", shared=False, autoretry_for=(OSError,), max_retries=1, retry_backoff=False
        )
        def pay(fails: str) -> None:
            if fails:
                raise {"OSError": OSError, "ValueError": ValueError}[fails]("no money")

        saga = Saga("order", app=self.app)
        saga.local_step(take, name="take").on_failure(put_back)
        saga.local_step(pay, name="pay")
        self.saga = saga.commit()

    def run(self, fails: str = "") -> Any:
        return self.saga.apply_async({"fails": fails}, saga_id="s")


@pytest.fixture
def shop() -> Shop:
    return Shop()


BEGUN = ["step take PENDING -> RUNNING", "saga -> RUNNING", "attempt take -> claimed"]
TAKEN = [
    "attempt take claimed -> ended",
    "step take RUNNING -> SUCCEEDED",
    "step pay PENDING -> RUNNING",
    "attempt pay -> claimed",
]


def test_all_transitions_of_a_saga_that_succeeds_in_order(shop: Shop) -> None:
    assert shop.run().status == "COMPLETED"
    assert shop.notes.lines() == [
        *BEGUN,
        *TAKEN,
        "attempt pay claimed -> ended",
        "step pay RUNNING -> SUCCEEDED",
        "saga RUNNING -> COMPLETED",
    ]
    assert {each.execution.saga_id for each in shop.notes.seen} == {"s"}
    assert {each.execution.name for each in shop.notes.seen} == {"order"}


def test_all_transitions_of_a_saga_that_fails_in_order(shop: Shop) -> None:
    assert shop.run("ValueError").status == "COMPENSATED"
    assert shop.notes.lines() == [
        *BEGUN,
        *TAKEN,
        "attempt pay claimed -> ended",
        "step pay RUNNING -> FAILED",
        "step take SUCCEEDED -> COMPENSATING",
        "saga RUNNING -> COMPENSATING",
        "attempt take -> claimed",
        "attempt take claimed -> ended",
        "step take COMPENSATING -> COMPENSATED",
        "saga COMPENSATING -> COMPENSATED",
    ]


def test_each_attempt_has_its_number(shop: Shop) -> None:
    assert shop.run("OSError").status == "COMPENSATED"
    attempts = [
        (each.after, each.attempt)
        for each in shop.notes.seen
        if each.subject is Subject.ATTEMPT and each.step == "pay"
    ]
    assert attempts == [("claimed", 1), ("ended", 1), ("claimed", 2), ("ended", 2)]


def test_an_alert_names_its_step(shop: Shop) -> None:
    result = shop.run()
    alert = Alert("saga-test", "something is odd")
    ref = StepRef((1,), Direction.FORWARD, 1)
    runtime_of(shop.app).orchestrator.alert(result.execution, alert, ref)
    last = shop.notes.seen[-1]
    assert (last.subject, last.after, last.text) == (Subject.ALERT, alert.name, alert.text)
    assert (last.step, last.attempt) == ("pay", 1)


def test_one_without_details_gets_the_end_of_a_saga(shop: Shop) -> None:
    shop.notes.details = False
    shop.run()
    assert shop.notes.lines() == [
        "attempt pay claimed -> ended",
        "step pay RUNNING -> SUCCEEDED",
        "saga RUNNING -> COMPLETED",
    ]


@pytest.mark.parametrize("fails", ["", "ValueError"])
def test_one_that_raises_changes_nothing(
    shop: Shop, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    whole = Shop()
    whole.run(fails)
    observers = runtime_of(shop.app).observers
    observers.insert(0, Broken())

    with caplog.at_level(logging.WARNING, "celery_saga"):
        result = shop.run(fails)

    assert result.status == ("COMPENSATED" if fails else "COMPLETED")
    assert shop.notes.lines() == whole.notes.lines(), "the others are notified nevertheless"
    assert "an observer of sagas failed" in caplog.text


def test_every_log_record_of_a_saga_has_the_same_fields(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "celery_saga"):
        shop.run("ValueError")
        logging.getLogger("celery_saga").info("of no saga")
    records = [each for each in caplog.records if each.name == "celery_saga"]
    for record in records:
        assert all(hasattr(record, field) for field in FIELDS), record.getMessage()
    logged = [each for each in records if each.saga_id]  # type: ignore[attr-defined]
    found = {tuple(getattr(each, field) for field in FIELDS) for each in logged}
    assert found == {("s", "order", "", 0), ("s", "order", "take", 1), ("s", "order", "pay", 1)}
    of_steps = [each for each in logged if "step" in each.getMessage().split(":")[1]]
    assert of_steps
    assert all(each.step and each.attempt for each in of_steps)  # type: ignore[attr-defined]


def test_nothing_is_written_below_debug_while_a_saga_is_on_its_way(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "celery_saga"):
        shop.run()
    assert [each.getMessage() for each in caplog.records if each.name == "celery_saga"] == [
        "saga order s: COMPLETED"
    ]
