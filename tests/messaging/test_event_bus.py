"""Events of sagas on a real broker, and a broker that is unavailable."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from celery import Celery
from celery.events.state import State

from celery_saga import Saga, SagaManager
from celery_saga.core.views.notice import Notice
from celery_saga.messaging.observers import event_bus
from celery_saga.runtime import runtime_of
from tests.helpers import wait_for
from tests.worker.servers import free_port


class Shop:
    """Sagas of one step that run eagerly, with a real broker for events."""

    def __init__(self, broker: str, **settings: Any) -> None:
        self.app = Celery("shop", set_as_current=False, broker=broker)
        self.app.conf.update(saga_store_url="memory://", task_always_eager=True, **settings)
        SagaManager(self.app)

        @self.app.task(name="take", shared=False)
        def take() -> None: ...

        self.saga = Saga("order", steps=[take], app=self.app).commit()
        self.events = runtime_of(self.app).events

    def run(self, saga_id: str) -> None:
        assert self.saga.apply_async(saga_id=saga_id).status == "COMPLETED"


class Watch:
    """The events of an app that were received."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def of(self, saga_id: str) -> list[dict[str, Any]]:
        return [each for each in list(self.seen) if each.get("saga_id") == saga_id]


@contextmanager
def watching(app: Celery) -> Iterator[Watch]:
    """Receive events in a thread until the end of the block; begins when it does."""
    watch = Watch()

    def heard() -> bool:
        with app.events.default_dispatcher() as dispatcher:
            dispatcher.send("test-ping")
        return bool(watch.seen)

    with app.connection_for_read() as connection, ThreadPoolExecutor(1) as pool:
        receiver = app.events.Receiver(connection, handlers={"*": watch.seen.append})
        capture = pool.submit(receiver.capture, limit=None, timeout=None)
        try:
            wait_for(heard, timeout=30)
            yield watch
        finally:
            receiver.should_stop = True
        capture.result(timeout=30)


@pytest.fixture
def shop(valkey: Any) -> Iterator[Shop]:
    found = Shop(valkey.url(9), saga_send_events=True)
    yield found
    found.app.close()


ALL = ["saga-started", "saga-step-succeeded", "saga-completed"]


def test_events_are_received_in_order_with_their_fields(shop: Shop) -> None:
    with watching(shop.app) as watch:
        shop.run("s")
        wait_for(lambda: len(watch.of("s")) == 3, timeout=30)
    assert [each["type"] for each in watch.of("s")] == ALL
    started, step, ended = watch.of("s")
    assert (step["step"], step["attempt"], step["status"]) == ("take", 1, "SUCCEEDED")
    assert (started["saga_name"], ended["status"]) == ("order", "COMPLETED")


def test_celerys_own_state_takes_them(shop: Shop) -> None:
    state = State()
    with watching(shop.app) as watch:
        shop.run("s")
        wait_for(lambda: len(watch.of("s")) == 3, timeout=30)
    for event in watch.seen:
        state.event(dict(event))
    assert state.event_count == len(watch.seen)


def test_nothing_is_sent_or_computed_unless_it_is_asked_for(valkey: Any) -> None:
    shop = Shop(valkey.url(9))
    assert not shop.events.details
    with mock.patch.object(event_bus, "notice_of") as computed:
        shop.run("s")
    assert not computed.called
    shop.events.of_worker(True, "w@test", lambda part: part)
    assert shop.events.details
    shop.app.close()


def test_a_broker_that_is_unavailable_is_warned_of_once() -> None:
    shop = Shop(f"redis://127.0.0.1:{free_port()}/0", saga_send_events=True)
    tried = threading.Semaphore(0)
    send = event_bus._Bus.send

    def counted(bus: Any, notice: Any) -> None:
        try:
            send(bus, notice)
        finally:
            tried.release()

    with (
        mock.patch.object(event_bus._Bus, "send", counted),
        mock.patch.object(event_bus.log, "warning") as warning,
    ):
        shop.run("s")
        shop.run("t")
        for _ in range(6):
            assert tried.acquire(timeout=60)
        wait_for(lambda: warning.call_count, timeout=30)
    assert warning.call_count == 1
    shop.app.close()


def test_after_an_error_the_connection_is_closed_and_the_next_event_opens_another() -> None:
    app = Celery("shop", set_as_current=False, broker=f"redis://127.0.0.1:{free_port()}/0")
    bus, notice = event_bus._Bus(app, None), Notice("saga-started", "s", "order")
    opened = [app.connection_for_write(), app.connection_for_write()]
    with mock.patch.object(app, "connection_for_write", side_effect=list(opened)):
        for connection in opened:
            with mock.patch.object(connection, "close", wraps=connection.close) as closed:
                with pytest.raises(connection.connection_errors):
                    bus.send(notice)
                assert closed.called
    app.close()


def test_events_that_wait_are_bounded(shop: Shop) -> None:
    bus = mock.Mock()
    gate, done = threading.Event(), threading.Semaphore(0)

    def send(notice: Any) -> None:
        assert gate.wait(30)
        done.release()

    bus.send.side_effect = send
    sender = event_bus._Sender(True, bus)
    for number in range(event_bus.LIMIT + 500):
        sender.send(mock.Mock(number=number))
    gate.set()
    for _ in range(event_bus.LIMIT):
        assert done.acquire(timeout=30)
    wait_for(lambda: not sender._waiting)
    sent = [call.args[0].number for call in bus.send.call_args_list]
    assert len(sent) <= event_bus.LIMIT + 1
    assert sent[-1] == event_bus.LIMIT + 499
    assert sent == sorted(sent)


def test_a_child_has_a_sender_of_its_own_and_keeps_its_parents(shop: Shop) -> None:
    shop.run("s")
    parents = shop.events._sender()
    with mock.patch.object(event_bus.os, "getpid", return_value=-1):
        assert shop.events._sender() is not parents
    held = gc.get_referrers(parents)
    assert any(each is shop.events._senders for each in held)
    assert shop.events._sender() is parents
