"""A worker's heartbeat, with a store in this process: its times, and whose claims it reclaims."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from celery_saga import Saga, SagaManager
from celery_saga.core.events import Overdue
from celery_saga.core.execution import Claim, SagaExecution
from celery_saga.errors import StoreUnavailable
from celery_saga.runtime import runtime_of
from celery_saga.stores import memory
from celery_saga.worker import heartbeat as heartbeat_module
from celery_saga.worker import received
from celery_saga.worker.eager import enclosing_task
from celery_saga.worker.heartbeat import Heartbeat
from tests.helpers import wait_for

TTL, EVERY = 6.0, 2.0


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("heartbeat", broker="memory://", set_as_current=False)
    SagaManager(app)
    app.conf.update(saga_store_url="memory://", saga_heartbeat=EVERY, saga_heartbeat_ttl=TTL)
    yield app
    app.close()


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    fake = SimpleNamespace(monotonic=clock, time=clock)
    monkeypatch.setattr(heartbeat_module, "time", fake)
    return clock


class Fleet:
    """Our heartbeat, which beats on request, and another instance that runs a step."""

    def __init__(self, app: Celery, clock: Clock) -> None:
        @app.task(name="heartbeat.step", acks_late=True, shared=False)
        def step() -> None:
            pass

        self.clock, self.outage = clock, False
        self.ahead = 0.0  # of the store's clock
        runtime = runtime_of(app)
        self.store: Any = runtime.store
        self.store._clock = lambda: clock.at + self.ahead
        original = self.store.heartbeat

        def sometimes(*args: Any) -> Any:
            if self.outage:
                raise StoreUnavailable("unavailable")
            return original(*args)

        self.store.heartbeat = sometimes
        result = Saga("heartbeat", app=app, steps=[step]).commit().delay()
        ref = result.execution.ref(0)
        self.store.heartbeat("other", TTL, ())
        self.store.claim(result.id, ref, Claim("other:1", "other"))
        self.result = result
        runtime.new_instance()
        self.heartbeat = Heartbeat(runtime)
        self.heartbeat._threads = []  # the test beats, and what follows happens at once
        self.heartbeat._inbox = SimpleNamespace(put=self.heartbeat._guarded)
        self.heartbeat.start()

    def pass_time(self, seconds: float, other: bool) -> None:
        """Beats of ours every two seconds, and of the other one if it is alive."""
        for _ in range(int(seconds / EVERY)):
            self.clock.at += EVERY
            if other and not self.outage:
                self.store.heartbeat("other", TTL, ())
            self.heartbeat._guarded(self.heartbeat._send)

    @property
    def lost(self) -> int:
        return int(self.result.execution.steps[0].lost)


@pytest.fixture
def fleet(app, clock) -> Fleet:
    return Fleet(app, clock)


class TestReclaimingOthers:
    def test_an_instance_that_is_alive_keeps_its_claim(self, fleet):
        fleet.pass_time(60, other=True)
        assert fleet.lost == 0

    def test_the_claim_of_an_instance_that_fell_silent_is_void(self, fleet):
        fleet.pass_time(20, other=True)
        fleet.pass_time(8, other=False)
        assert fleet.lost == 1

    def test_a_fresh_worker_finds_an_old_death_within_ten_seconds(self, fleet):
        fleet.pass_time(10, other=False)
        assert fleet.lost == 1

    def test_an_outage_of_the_store_voids_nothing(self, fleet):
        fleet.pass_time(20, other=True)
        fleet.outage = True
        fleet.pass_time(60, other=True)
        fleet.outage = False

        fleet.pass_time(2, other=False)  # ours is back before the other
        fleet.pass_time(60, other=True)

        assert fleet.lost == 0

    def test_a_pause_of_all_voids_nothing_wherever_between_two_heartbeats_it_comes(self, fleet):
        """One that has just sent a heartbeat must not reclaim from one that is about to."""
        fleet.pass_time(20, other=True)
        fleet.clock.at += 0.1
        fleet.store.heartbeat("other", TTL, ())
        fleet.clock.at += 1.9
        fleet.heartbeat._guarded(fleet.heartbeat._send)

        fleet.clock.at += 4.15  # the other has been silent for six seconds, we for four
        fleet.heartbeat._guarded(fleet.heartbeat._send)
        fleet.pass_time(60, other=True)

        assert fleet.lost == 0

    def test_a_store_whose_clock_is_set_forward_voids_nothing(self, fleet):
        """Or a replica with another clock takes over: everybody looks dead until they beat."""
        fleet.pass_time(20, other=True)
        fleet.ahead = 3600.0

        fleet.pass_time(2, other=False)  # ours beats before the other
        fleet.pass_time(60, other=True)

        assert fleet.lost == 0

    def test_after_that_the_dead_are_found_all_the_same(self, fleet):
        fleet.pass_time(20, other=True)
        fleet.ahead = 3600.0
        fleet.pass_time(10, other=False)
        assert fleet.lost == 1

    def test_after_an_outage_the_dead_are_found_all_the_same(self, fleet):
        fleet.pass_time(20, other=True)
        fleet.outage = True
        fleet.pass_time(60, other=False)
        fleet.outage = False

        fleet.pass_time(10, other=False)

        assert fleet.lost == 1


def test_reports_without_end_do_not_hold_it_up(app):
    app.conf.update(saga_heartbeat=0.02, saga_heartbeat_ttl=0.06)
    runtime = runtime_of(app)
    store: Any = runtime.store
    beats = []
    original = store.heartbeat
    store.heartbeat = lambda *args: beats.append(args) or original(*args)
    runtime.new_instance()
    heartbeat = Heartbeat(runtime)

    def report(at: float) -> Overdue:
        heartbeat.submit("unknown", report, None)
        return Overdue(at)

    heartbeat.submit("unknown", report, None)
    heartbeat.start()
    try:
        wait_for(lambda: len(beats) > 5)
    finally:
        heartbeat.stop()


def test_what_has_to_wait_does_not_hold_it_up(app):
    """A broker that is unavailable delays the sweep, and the worker does not count as dead."""
    app.conf.update(saga_heartbeat=0.02, saga_heartbeat_ttl=0.06)
    runtime = runtime_of(app)
    store: Any = runtime.store
    beats = []
    original = store.heartbeat
    store.heartbeat = lambda *args: beats.append(args) or original(*args)
    runtime.new_instance()
    heartbeat = Heartbeat(runtime)
    stuck, resume = threading.Event(), threading.Event()

    def report(at: float) -> Overdue:
        stuck.set()
        resume.wait()
        return Overdue(at)

    heartbeat.submit("unknown", report, None)
    heartbeat.start()
    try:
        assert stuck.wait(10)
        seen = len(beats)
        wait_for(lambda: len(beats) > seen + 5)
        assert heartbeat.instance in store.alive()
    finally:
        resume.set()
        heartbeat.stop()


def test_every_reply_is_acted_upon_however_quickly(app):
    """The second thread may start the work before the first continues."""
    runtime = runtime_of(app)
    store: Any = runtime.store
    looks: list[Any] = []
    due = store.due
    store.due = lambda limit: looks.append(limit) or due(limit)
    runtime.new_instance()
    heartbeat = Heartbeat(runtime)
    heartbeat._threads = []
    heartbeat._inbox = SimpleNamespace(put=lambda work: work())
    heartbeat.start()

    for _ in range(3):
        heartbeat._send()

    assert len(looks) == 4


def test_what_goes_wrong_does_not_stop_it(app):
    app.conf.update(saga_heartbeat=0.02, saga_heartbeat_ttl=0.06)
    runtime = runtime_of(app)
    store: Any = runtime.store
    beats = []
    original = store.heartbeat
    runtime.new_instance()
    heartbeat = Heartbeat(runtime)
    heartbeat.start()

    def failing(*args: Any) -> Any:
        beats.append(args)
        if len(beats) < 5:
            raise StoreUnavailable("unavailable")
        return original(*args)

    store.heartbeat = failing
    try:
        wait_for(lambda: len(beats) > 8)
        assert heartbeat.instance in store.alive()
    finally:
        heartbeat.stop()


def test_it_ends_with_the_last_body_that_the_pool_could_not_end(app, monkeypatch):
    app.conf.update(saga_heartbeat=0.02, saga_heartbeat_ttl=6.0)
    bodies = [SimpleNamespace(id="a task")]
    running = SimpleNamespace(active_requests=bodies, reserved_requests=(), requests={})
    monkeypatch.setattr(received, "state", running)
    runtime = runtime_of(app)
    runtime.new_instance()
    heartbeat = Heartbeat(runtime)
    heartbeat.start()
    alive = runtime.store.alive
    heartbeat.stop_when_idle()
    seen = heartbeat._steadiness.sent_at
    wait_for(lambda: heartbeat._steadiness.sent_at > seen)
    assert heartbeat.instance in alive()
    bodies.clear()
    wait_for(
        lambda: (
            heartbeat.instance not in alive() and not any(t.is_alive() for t in heartbeat._threads)
        )
    )


class TestStepsOfEagerSagas:
    """Celery makes no request for a task that runs inside of another, or of the worker itself."""

    @pytest.fixture
    def worker(self, app, monkeypatch) -> Iterator[list[Any]]:
        """Requests of a worker that sends heartbeats."""
        app.conf.update(saga_heartbeat=0.05, saga_heartbeat_ttl=1.0)
        requests: list[Any] = []
        running = SimpleNamespace(active_requests=requests, reserved_requests=(), requests={})
        monkeypatch.setattr(received, "state", running)
        runtime = runtime_of(app)
        runtime.new_instance()
        heartbeat = runtime.heartbeat = Heartbeat(runtime)
        heartbeat.start()
        yield requests
        heartbeat.stop()

    def run(self, app: Celery, body: Callable[[], object]) -> SagaExecution:
        """The saga that has run ``body`` as its step."""

        @app.task(name="heartbeat.eager", acks_late=True, shared=False)
        def step() -> None:
            body()

        saga = Saga(f"eager {uuid.uuid4()}", app=app, steps=[step]).commit()
        return runtime_of(app).orchestrator.load(saga.s().apply().id)

    def looks(self, app: Celery, count: int) -> None:
        """Let the heartbeat check its own claims that often."""
        heartbeat: Any = runtime_of(app).heartbeat
        for _ in range(count):
            seen = heartbeat._own_claims.checked_at
            wait_for(lambda before=seen: heartbeat._own_claims.checked_at > before)

    def test_one_that_a_task_of_the_worker_runs(self, app, worker):
        worker.append(outer := SimpleNamespace(id="outer", is_eager=False))
        ran = []
        with enclosing_task(outer):
            saga = self.run(app, lambda: ran.append(self.looks(app, 6)))
        assert (saga.status.value, len(ran), saga.steps[0].lost) == ("COMPLETED", 1, 0)

    def test_one_that_runs_in_no_task(self, app, worker):
        ran = []
        saga = self.run(app, lambda: ran.append(self.looks(app, 6)))
        assert (saga.status.value, len(ran), saga.steps[0].lost) == ("COMPLETED", 1, 0)

    def test_it_is_lost_with_the_task_round_it(self, app, worker):
        worker.append(outer := SimpleNamespace(id="outer", is_eager=False))

        def lose() -> None:
            if worker:
                self.looks(app, 6)
                worker.clear()  # its process has been lost, and this here is a ghost
                self.looks(app, 6)

        with enclosing_task(outer):
            saga = self.run(app, lose)
        assert saga.steps[0].lost == 1

    def test_it_is_lost_with_its_worker(self, app, worker):
        worker.append(outer := SimpleNamespace(id="outer", is_eager=False))
        runtime = runtime_of(app)
        seen: list[Any] = []
        with enclosing_task(outer):
            self.run(app, lambda: seen.extend(runtime.store.claims_of(runtime.instance)))
        assert len(seen) == 1, "a dead instance's claims are void, and this was one of them"


def test_nothing_of_memory_is_shared_by_two_apps(app):
    other = Celery("other", broker="memory://", set_as_current=False)
    SagaManager(other)
    other.conf.saga_store_url = "memory://"

    assert isinstance(runtime_of(app).store, memory.MemoryStore)
    assert runtime_of(app).store is not runtime_of(other).store
