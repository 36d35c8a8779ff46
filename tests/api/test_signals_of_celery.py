"""The signals that a process sends for what it saved of a saga."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager, signals
from celery_saga.core.events import Subject, Transition
from celery_saga.core.plan import Call, Plan, PlanStep
from celery_saga.core.views.notice import NAMES, notice_of
from celery_saga.messaging.observers import SignalObserver
from celery_saga.runtime import runtime_of
from tests.core.scenario import Scenario

ALL = sorted(signals.__all__)


class Shop:
    """Sagas that run eagerly: ``pay`` raises what the context says; so does its compensation."""

    def __init__(self) -> None:
        self.app = Celery(
            "shop", set_as_current=False, broker="memory://", backend="cache+memory://"
        )
        self.app.conf.update(saga_store_url="memory://", task_always_eager=True)
        self.sagas = SagaManager(self.app)

        @self.app.task(name="take", shared=False)
        def take() -> None: ...

        @self.app.task(name="put_back", shared=False)
        def put_back(broken: bool = False) -> None:
            if broken:
                raise RuntimeError("no shelf")

        @self.app.task(name="pay", shared=False)
        def pay(fails: bool = False) -> None:
            if fails:
                raise ValueError("no money")

        saga = Saga("order", app=self.app)
        saga.local_step(take, name="take").on_failure(put_back, max_attempts=1)
        saga.local_step(pay, name="pay")
        self.saga = saga.commit()

    def run(self, **context: Any) -> str:
        return str(self.saga.apply_async(context, saga_id="s").status)


class Notes:
    """Receives all signals, as ``name step status reason``."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.fields: list[dict[str, Any]] = []

    def connect(self, name: str) -> None:
        def receive(sender: str, **fields: Any) -> None:
            fields.pop("signal")
            self.fields.append({"sender": sender, **fields})
            words = (name, fields["step"], fields["status"], fields["reason"])
            self.lines.append(" ".join(filter(None, words)))

        getattr(signals, name).connect(receive, weak=False, dispatch_uid=f"notes-{name}")

    def disconnect(self) -> None:
        for name in ALL:
            getattr(signals, name).disconnect(dispatch_uid=f"notes-{name}")


@pytest.fixture
def notes() -> Iterator[Notes]:
    found = Notes()
    for name in ALL:
        found.connect(name)
    yield found
    found.disconnect()


def test_a_saga_that_succeeds(notes: Notes) -> None:
    assert Shop().run() == "COMPLETED"
    assert notes.lines == [
        "saga_started RUNNING",
        "saga_step_succeeded take SUCCEEDED",
        "saga_step_succeeded pay SUCCEEDED",
        "saga_completed COMPLETED",
    ]
    assert {each["sender"] for each in notes.fields} == {"order"}
    assert {each["saga_id"] for each in notes.fields} == {"s"}
    assert [each["attempt"] for each in notes.fields] == [0, 1, 1, 0]


def test_a_saga_that_is_rolled_back(notes: Notes) -> None:
    assert Shop().run(fails=True) == "COMPENSATED"
    assert notes.lines == [
        "saga_started RUNNING",
        "saga_step_succeeded take SUCCEEDED",
        "saga_step_failed pay FAILED builtins.ValueError: no money",
        "saga_compensating pay COMPENSATING builtins.ValueError: no money",
        "saga_compensated pay COMPENSATED builtins.ValueError: no money",
    ]


def test_a_saga_that_is_stuck(notes: Notes) -> None:
    assert Shop().run(fails=True, broken=True) == "STUCK"
    assert notes.lines[-2].startswith(
        "saga_step_failed take COMPENSATION_FAILED builtins.RuntimeError: no"
    )
    assert notes.lines[-1].startswith("saga_stuck take STUCK its compensation failed: builtins")


@pytest.mark.parametrize("name", ["saga-orphan-effect", "saga-deadline"])
def test_an_alert_is_a_signal(name: str, notes: Notes) -> None:
    execution = Scenario.of(Plan("order", (PlanStep("take", Call("take")),))).execution
    SignalObserver().observe(
        Transition(Subject.ALERT, execution, "take", 2, after=name, text="look at it")
    )
    assert notes.lines == [f"{name.replace('-', '_')} take {execution.status.value} look at it"]
    other = Transition(Subject.ALERT, execution, after="saga-other", text="look at it")
    assert notice_of(other) is None


def test_a_receiver_that_raises_changes_nothing(notes: Notes) -> None:
    def broken(**fields: Any) -> None:
        raise ConnectionError("the collector is unavailable")

    signals.saga_step_succeeded.connect(broken)
    try:
        assert Shop().run() == "COMPLETED"
    finally:
        signals.saga_step_succeeded.disconnect(broken)
    assert notes.lines[-1] == "saga_completed COMPLETED"


def test_one_saga_can_be_selected(notes: Notes) -> None:
    seen = []

    def receive(saga_id: str, **fields: Any) -> None:
        seen.append(saga_id)

    signals.saga_completed.connect(receive, sender="another")
    try:
        Shop().run()
        assert seen == []
        signals.saga_completed.connect(receive, sender="order")
        Shop().run()
        assert seen == ["s"]
    finally:
        signals.saga_completed.disconnect(receive, sender="another")
        signals.saga_completed.disconnect(receive, sender="order")


def test_details_are_computed_only_for_a_receiver() -> None:
    gc.collect()  # receivers of other tests are referred to weakly
    shop = Shop()
    (observer,) = (it for it in runtime_of(shop.app).observers if isinstance(it, SignalObserver))
    assert not observer.details
    notes = Notes()
    try:
        notes.connect("saga_completed")
        assert not observer.details, "the ends of sagas need none"
        notes.connect("saga_started")
        assert observer.details
    finally:
        notes.disconnect()
    assert not observer.details


def test_there_is_a_signal_for_each_notice() -> None:
    assert sorted(name.replace("-", "_") for name in NAMES) == ALL
