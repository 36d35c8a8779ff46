"""What a retry changes about its message is kept, for the worker that sends that message again."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from kombu import Queue

from celery_saga.core.decide import decide
from celery_saga.core.decide.claims import claimed
from celery_saga.core.decide.transitions import call_of
from celery_saga.core.events import (
    ClaimVoided,
    Dispatch,
    MessageState,
    Overdue,
    Started,
    StepFailed,
    StepReleased,
    StepSucceeded,
)
from celery_saga.core.execution import Claim, Direction, Failure, SagaExecution, StepRef
from celery_saga.core.plan import Call, Input, Plan, PlanStep
from celery_saga.messaging.inspection import CeleryInspector
from celery_saga.messaging.publisher import CeleryPublisher
from celery_saga.messaging.redis.publish import arguments
from celery_saga.messaging.retries import revision_of

FIRST, COMPENSATION = StepRef((0,), Direction.FORWARD, 1), StepRef((0,), Direction.COMPENSATION, 2)


@pytest.fixture
def app() -> Celery:
    app = Celery("retries", broker="memory://", set_as_current=False)
    app.conf.update(saga_context_inline_limit=65536, saga_store_step_results=False)
    app.conf.update(saga_mask_keys=None)

    @app.task(name="retries.pay", shared=False)
    def pay(*args: Any, **kwargs: Any) -> None: ...

    return app


def request(**changes: Any) -> Context:
    """A delivery as a worker has it."""
    info = {"exchange": "", "routing_key": "celery", "priority": 3, "redelivered": False}
    given: dict[str, Any] = {
        "id": "saga~f0~1",
        "args": [],
        "kwargs": {"order_id": 7},
        "delivery_info": info,
        "timelimit": [60, 50],
        "expires": None,
        "headers": {"saga": {"plan": "p"}, "tenant": "acme"},
        "called_directly": False,
    }
    return Context({**given, **changes})


#: What ``self.retry()`` is given, and what is kept of it.
SAID: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "nothing": ({}, None),
    "a countdown": ({"countdown": 3}, None),
    "an eta": ({"eta": datetime(2030, 1, 1, tzinfo=timezone.utc)}, None),
    "the same arguments": ({"kwargs": {"order_id": 7}}, None),
    "the same limits": ({"time_limit": 60, "soft_time_limit": 50, "priority": 3}, None),
    "its own queue": ({"queue": "celery"}, None),
    "keyword arguments": ({"kwargs": {"page": 2}}, {"kwargs": {"page": 2}}),
    "none of them": (
        {"args": (1, "a"), "kwargs": {}},
        {"args": [1, "a"], "kwargs": {}},
    ),
    "a date": (
        {"kwargs": {"at": datetime(2030, 1, 1, tzinfo=timezone.utc)}},
        {
            "kwargs": {
                "at": {"__type__": "datetime", "__value__": "2030-01-01T00:00:00+00:00"},
            }
        },
    ),
    "a queue": ({"queue": "slow"}, {"options": {"queue": "slow"}}),
    "a queue object": ({"queue": Queue("slow")}, {"options": {"queue": "slow"}}),
    "an exchange": (
        {"exchange": "x", "routing_key": "y"},
        {"options": {"exchange": "x", "routing_key": "y"}},
    ),
    "a priority": ({"priority": 9}, {"options": {"priority": 9}}),
    "a time limit": ({"time_limit": 600}, {"options": {"time_limit": 600}}),
    "a soft time limit": ({"soft_time_limit": 9}, {"options": {"soft_time_limit": 9}}),
    "an expiry": ({"expires": 90}, {"options": {"expires": 90}}),
    "headers": (
        {"headers": {"saga": {"plan": "p"}, "tenant": "other"}},
        {"headers": {"tenant": "other"}},
    ),
    "what cannot be sent": ({"kwargs": {"odd": object()}}, None),
}


@pytest.mark.parametrize("said", SAID)
def test_what_is_kept(app, said):
    given, kept = SAID[said]
    delivered = request()
    args, kwargs = given.pop("args", None), given.pop("kwargs", None)
    message = app.tasks["retries.pay"].signature_from_request(
        delivered, args, kwargs, retries=1, **given
    )
    assert revision_of(delivered, message) == kept


def test_of_a_topic_exchange_the_same_is_not_kept(app):
    info = {"exchange": "topic", "routing_key": "a.b", "priority": None, "redelivered": False}
    delivered = request(delivery_info=info)
    message = app.tasks["retries.pay"].signature_from_request(delivered, None, None, retries=1)
    assert revision_of(delivered, message) is None


def test_a_retry_of_which_nothing_is_known_changes_nothing():
    assert revision_of(request(), None) is None


def begun(*released: dict[str, Any] | None, **limits: Any) -> SagaExecution:
    """A saga whose first step was retried, with these changes."""
    pay = Call("retries.pay", inputs=(Input("order_id", ("order_id",)),), options={"queue": "fast"})
    plan = Plan("revised", (PlanStep("pay", pay, Call("retries.compensation")),), **limits)
    execution = SagaExecution.create("saga", plan, {"order_id": 7}, at=1.0)
    execution = decide(execution, Started(1.0)).execution
    for number, revised in enumerate(released, start=1):
        execution = with_claim(execution, FIRST, f"t{number}", number - 1)
        event = StepReleased(2.0, FIRST, f"t{number}", number, 2.0, revised=revised)
        execution = decide(execution, event).execution
    return execution


def with_claim(
    execution: SagaExecution, ref: StepRef, token: str, retries: int = 0
) -> SagaExecution:
    found = claimed(execution, ref, Claim(token, "instance", retries, 2.0))
    assert isinstance(found, SagaExecution)
    return found


class TestWhatIsSentAgain:
    def test_a_lost_message_has_the_changes(self, app):
        execution = begun({"kwargs": {"page": 2}, "options": {"queue": "slow", "priority": 9}})
        decision = decide(execution, Overdue(9.0, MessageState.LOST_WITH_WORKER))
        (command,) = decision.commands
        assert isinstance(command, Dispatch)
        sent = CeleryPublisher(app).message(decision.execution, command)
        assert arguments(sent) == ((), {"page": 2})
        assert {name: sent["options"][name] for name in ("queue", "priority", "retries")} == {
            "queue": "slow",
            "priority": 9,
            "retries": 1,
        }
        inspector = CeleryInspector(app, CeleryPublisher(app))
        assert inspector.queue_of(decision.execution, FIRST) == "slow"

    def test_positional_arguments_and_dates(self, app):
        at = {"__type__": "datetime", "__value__": "2030-01-01T00:00:00+00:00"}
        execution = begun({"args": [at, 1], "kwargs": {}})
        sent = CeleryPublisher(app).message(execution, Dispatch(FIRST, 1))
        assert arguments(sent) == ((datetime(2030, 1, 1, tzinfo=timezone.utc), 1), {})

    def test_secrets_among_them_are_masked(self, app):
        execution = begun({"kwargs": {"password": "s3cr3t"}})
        sent = CeleryPublisher(app).message(execution, Dispatch(FIRST, 1))
        assert "s3cr3t" not in sent["options"]["kwargsrepr"]
        assert "s3cr3t" not in repr(execution)

    def test_its_headers(self, app):
        execution = begun({"headers": {"tenant": "other"}})
        sent = CeleryPublisher(app).message(execution, Dispatch(FIRST, 1))
        assert sent["options"]["headers"]["tenant"] == "other"

    def test_messages_that_differ_have_templates_of_their_own(self, app):
        plain, changed = begun(None), begun({"options": {"queue": "slow"}})
        requests = [CeleryPublisher(app).message(it, Dispatch(FIRST, 1)) for it in (plain, changed)]
        assert requests[0]["template"] != requests[1]["template"]


class TestHowLongItHolds:
    def test_each_retry_begins_with_the_one_before(self):
        execution = begun({"options": {"queue": "slow"}}, {"options": {"priority": 9}}, None)
        assert call_of(execution, (0,), Direction.FORWARD).options == {
            "queue": "slow",
            "priority": 9,
        }

    def test_the_last_word_on_the_arguments_holds(self):
        execution = begun({"kwargs": {"page": 2}}, {"kwargs": {"page": 3}})
        assert [it.const for it in call_of(execution, (0,), Direction.FORWARD).inputs] == [3]

    def test_a_rerun_of_the_same_attempt_has_them(self):
        execution = with_claim(begun({"kwargs": {"page": 2}}), FIRST, "next", 1)
        execution = decide(execution, ClaimVoided(9.0, FIRST, "next")).execution
        ref = execution.ref(0)
        assert ref == StepRef((0,), Direction.FORWARD, 2)
        assert [it.const for it in call_of(execution, (0,), Direction.FORWARD).inputs] == [2]

    @pytest.mark.parametrize(
        "event",
        [
            StepSucceeded(9.0, FIRST, "next"),
            StepFailed(9.0, FIRST, Failure("Error", "no"), token="next"),
            StepFailed(9.0, FIRST, Failure("Error", "no"), token="next", effect=True),
        ],
        ids=["success", "failure", "a possible effect"],
    )
    def test_it_ends_with_the_step(self, event):
        execution = with_claim(begun({"kwargs": {"page": 2}}), FIRST, "next", 1)
        after = decide(execution, event).execution
        assert after.steps[0].revised is None

    def test_the_compensation_of_a_lost_step_has_none(self):
        execution = with_claim(
            begun({"options": {"queue": "slow"}}, max_redeliveries=0), FIRST, "next", 1
        )
        after = decide(execution, ClaimVoided(9.0, FIRST, "next")).execution
        assert after.ref(0) == COMPENSATION
        assert call_of(after, (0,), Direction.COMPENSATION).options == {}

    def test_it_is_in_the_export(self):
        execution = begun({"kwargs": {"page": 2}, "options": {"queue": "slow"}})
        assert SagaExecution.from_raw(execution.raw) == execution
