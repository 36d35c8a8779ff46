"""Starting sagas: once per id, or not at all; and what others see of the messages."""

from __future__ import annotations

import ast
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from celery_saga import Saga, SagaContext
from celery_saga.errors import (
    EmptySagaException,
    MissingInput,
    SagaNotCommittedException,
    UnserializableValue,
)
from tests.helpers import wait_for
from tests.worker.apps.steps import compensation, early, late

pytestmark = pytest.mark.worker


class TestRefused:
    """Nothing is started, and nothing is left in the store or the queue."""

    @pytest.fixture(autouse=True)
    def _nothing(self, site):
        yield
        assert list(site.client.scan_iter("saga:*")) == []
        assert site.queued() == 0

    def test_a_saga_without_steps(self, site):
        with pytest.raises(EmptySagaException):
            Saga("empty", app=site.app).commit().delay()

    def test_a_saga_that_is_not_committed(self, site):
        saga = Saga("draft", app=site.app)
        saga.local_step(late)
        with pytest.raises(SagaNotCommittedException):
            saga.delay()

    def test_a_value_that_json_cannot_carry(self, site):
        with pytest.raises(UnserializableValue, match=r"context\['order'\]\['lines'\]\[1\]"):
            site.saga(("a", late)).delay(order={"lines": [1, object()]})

    def test_a_first_step_without_its_input(self, site):
        saga = Saga("missing", app=site.app)
        saga.local_step(late, inputs={"hold": ("gates", "first")})
        saga.local_step("some.task", name="b", inputs=["x"])
        assert saga.commit().steps

        needy = Saga("needy", app=site.app)
        needy.local_step("some.task", name="b", inputs=["x"])
        with pytest.raises(MissingInput, match=r"'some\.task' needs 'x'"):
            needy.commit().delay()

    def test_a_context_that_is_not_a_mapping(self, site):
        with pytest.raises(TypeError, match="expected a mapping"):
            site.saga(("a", late)).apply_async([1, 2])


def test_a_context_object_starts_a_saga_as_a_dict_does(site):
    result = site.saga(("a", late)).apply_async(SagaContext(x=1))
    assert result.context == {"x": 1}


class TestWhatOthersSee:
    def messages(self, site):
        return [json.loads(raw) for raw in site.client.lrange("celery", 0, -1)]

    def test_flower_finds_the_saga_by_its_id_and_sees_no_secrets(self, site):
        saga = Saga("seen", app=site.app)
        saga.local_step(
            "pay", name="pay", inputs=["order_id", "card_number", "api_key", "customer", "note"]
        )
        customer = {"name": "Ann", "password": "hunter2"}
        result = saga.commit().delay(
            order_id=7, card_number="4111", api_key="k", customer=customer, note="n" * 5000
        )

        (message,) = self.messages(site)
        shown = message["headers"]["kwargsrepr"]
        literal = ast.literal_eval(shown)
        assert list(literal)[:3] == ["saga", "saga_id", "step"]
        assert list(literal.values())[:3] == ["seen", result.id, "pay"]
        assert literal["order_id"] == 7
        assert "***" in literal["card_number"]
        for secret in ("4111", "hunter2", "'k'"):
            assert secret not in shown
        assert len(shown) < 1200
        assert message["headers"]["argsrepr"] == "()"

    def test_the_words_to_mask_are_a_setting(self, site):
        site.app.conf.saga_mask_keys = {"order"}
        saga = Saga("seen", app=site.app)
        saga.local_step("pay", inputs=["order_id", "password"])
        saga.commit().delay(order_id=4711, password="shown")

        shown = self.messages(site)[0]["headers"]["kwargsrepr"]
        assert "4711" not in shown
        assert "shown" in shown

    def test_a_context_does_not_show_in_the_arguments(self, site):
        saga = Saga("seen", app=site.app)
        saga.local_step("pay", context=True)
        saga.commit().delay(password="hunter2")

        headers = self.messages(site)[0]["headers"]
        assert headers["argsrepr"] == "(<SagaContext>,)"
        assert "hunter2" not in json.dumps(headers)

    def test_events_lead_from_the_saga_through_its_steps(self, site):
        """What Flower makes its list and its tree of."""
        site.worker("-E")
        seen, heard = [], threading.Event()
        with site.app.connection_for_read() as connection:

            def received(event):
                seen.append(event)
                receiver.should_stop = len(seen) == 3

            handlers = {
                "task-received": received,
                "worker-heartbeat": lambda event: heard.set(),
            }
            receiver = site.app.events.Receiver(connection, handlers=handlers)
            with ThreadPoolExecutor(1) as pool:
                capture = pool.submit(receiver.capture, limit=None, timeout=30)
                try:
                    wait_for(heard.is_set, description="a heartbeat, so that it listens")
                    result = site.saga(("a", late, compensation), ("b", early)).delay(fail=["b/f"])
                    wait_for(capture.done, timeout=30)
                finally:
                    receiver.should_stop = True

        saga_id = result.id
        assert site.settled(result) == "COMPENSATED"
        assert [event["root_id"] for event in seen] == [f"{saga_id}~f0~1"] * 3
        assert [(event["uuid"], event["parent_id"]) for event in seen] == [
            (f"{saga_id}~f0~1", None),
            (f"{saga_id}~f1~1", f"{saga_id}~f0~1"),
            (f"{saga_id}~c0~2", f"{saga_id}~f0~1"),
        ]
        kwargs = [ast.literal_eval(event["kwargs"]) for event in seen]
        assert [line["step"] for line in kwargs] == ["a", "b", "a"]
        assert [line.get("compensation") for line in kwargs] == [None, None, True]

    def test_step_options_are_the_messages_options(self, site):
        saga = Saga("routed", app=site.app)
        saga.local_step(late, queue="heavy", priority=3, time_limit=9, soft_time_limit=8)
        saga.commit().delay()

        message = json.loads(
            next(
                site.client.lindex(key, 0)
                for key in site.client.scan_iter("heavy*")
                if site.client.type(key) == b"list"
            )
        )
        assert message["headers"]["timelimit"] == [9, 8]
        assert message["properties"]["priority"] == 3
        for key in list(site.client.scan_iter("heavy*")):
            site.client.delete(key)
