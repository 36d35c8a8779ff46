"""The sweep over many sagas: neither an outage nor one saga's trouble makes the others wait."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from celery_saga.core.events import Alert, Dispatch, MessageState, Subject, Transition
from celery_saga.core.execution import Claim, Direction, SagaExecution, StepRef
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.ports import INSTANCE_RETENTION, Backlog, Reserved
from celery_saga.core.recovery import resends, sweep
from celery_saga.core.recovery.policy import POLICY
from celery_saga.core.recovery.sweep import Sweeper
from celery_saga.errors import StoreUnavailable, UnsupportedCheckpoint
from celery_saga.stores.memory import MemoryStore
from tests.core.scenario import plan_of

#: Seconds after which a message that no worker has is missed.
MISSED = 5.0

#: Seconds within which a worker's heartbeat reports what it has received.
KNOWN = POLICY.known_after


class Results:
    """A result backend that takes everything."""

    def encode(self, execution: SagaExecution) -> None: ...

    def publish(self, execution: SagaExecution) -> None: ...


class Queue:
    """A publisher whose messages stay in one list."""

    details = True

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.broken: set[str] = set()
        self.taken: dict[str, str] = {}
        self.waiting: dict[str, frozenset[str]] = {}
        self.long: frozenset[str] = frozenset()
        self.asked = 0
        self.not_sent_of: dict[str, MessageState] = {}
        self.consumers: dict[str, list[str]] = {}
        self.asked_for: list[list[str]] = []
        self.alerts: list[Alert] = []
        self.tasks: set[str] = set()

    def first_message(self, execution: SagaExecution) -> tuple[SagaExecution, Mapping[str, Any]]:
        return execution, self.message(execution, Dispatch(StepRef((0,), Direction.FORWARD, 1)))

    def message(self, execution: SagaExecution, command: Dispatch) -> Mapping[str, Any]:
        return {"saga_id": execution.saga_id}

    def publish(self, message: Mapping[str, Any]) -> None:
        self.messages.append(message["saga_id"])

    def encode(self, message: Any) -> None: ...

    def undelivered(self, task_id: str) -> None: ...

    def reconsider(self) -> None: ...

    def observe(self, transition: Transition) -> None:
        if transition.subject is Subject.ALERT:
            self.alerts.append(Alert(transition.after, transition.text))

    def has_task(self, name: str) -> bool:
        return name in self.tasks

    def queue_of(self, execution: SagaExecution, ref: StepRef) -> str:
        if execution.saga_id in self.broken:
            raise LookupError("its queue is not known")
        return "queue"

    def reply_to(self, *about: Any) -> None: ...

    def not_sent(self, execution: SagaExecution, ref: StepRef) -> MessageState | None:
        return self.not_sent_of.get(execution.saga_id)

    def workers_without_plugin(self, queues: Collection[str]) -> Mapping[str, Collection[str]]:
        self.asked_for.append(sorted(queues))
        return {queue: self.consumers[queue] for queue in queues if queue in self.consumers}

    def backlog(self, queues: Collection[str]) -> Backlog:
        self.asked += 1
        empty = frozenset() if self.messages else frozenset(queues)
        return Backlog(empty, self.taken, self.waiting, self.long)


class Fixture:
    """Sagas whose first messages are lost, and a sweeper."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.store = MemoryStore(lambda: self.now)
        self.queue = Queue()
        orchestrator = Orchestrator(
            self.store, self.queue, Results(), store_timeout=0.0, observer=self.queue
        )
        for number in range(5):
            orchestrator.start(plan_of("a b"), f"s{number}", {}, token=f"t{number}")
        self.ids = set(self.queue.messages)
        self.queue.messages.clear()
        self.sweeper = Sweeper(orchestrator, self.queue, app="shop")

    def sweep(self, later: float) -> None:
        self.now += later
        self.sweeper.sweep()

    def one_at_a_time(self) -> None:
        self.sweeper._policy = replace(POLICY, sweep_limit=1)


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Fixture:
    fixture = Fixture()
    for module in (sweep, resends):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: fixture.now))
    return fixture


def test_all_lost_messages_of_an_empty_queue_are_sent_again(lost: Fixture) -> None:
    lost.sweep(later=MISSED)
    assert set(lost.queue.messages) == lost.ids


def test_a_saga_that_cannot_be_looked_at_does_not_keep_others(lost: Fixture) -> None:
    lost.queue.broken = {"s2"}
    for _ in range(3):
        lost.sweep(later=MISSED)
        lost.queue.messages.clear()
    lost.queue.broken.clear()
    lost.sweep(later=MISSED)
    assert "s2" not in lost.queue.messages, "it is left alone for a while"
    lost.sweep(later=60)
    assert "s2" in lost.queue.messages


class TestUnreadable:
    """A record of a newer version, or a damaged one."""

    @pytest.fixture
    def unreadable(self, lost: Fixture) -> Iterator[list[str]]:
        """Saga s2 cannot be read; the loads of it are listed."""
        load, loads = lost.store.load, []

        def reads(saga_id: str, context: bool = True) -> SagaExecution | None:
            if saga_id == "s2":
                loads.append(saga_id)
                raise UnsupportedCheckpoint("s2", 99, 1)
            return load(saga_id, context)

        lost.store.load = reads
        yield loads
        lost.store.load = load

    def test_the_others_are_recovered(self, lost, unreadable, caplog):
        with caplog.at_level("ERROR", "celery_saga"):
            lost.sweep(later=MISSED)
        assert set(lost.queue.messages) == lost.ids - {"s2"}
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "saga 's2' was saved with checkpoint version 99" in caplog.text
        assert "Traceback" not in caplog.text

    def test_it_is_left_alone_for_a_while(self, lost, unreadable, caplog):
        for _ in range(5):
            lost.sweep(later=MISSED)
        assert len(unreadable) == 1
        lost.sweep(later=60)
        assert len(unreadable) == 2

    def test_it_takes_no_other_sagas_place(self, lost, unreadable):
        sent = set()
        lost.one_at_a_time()
        for _ in range(8):
            lost.now += MISSED
            lost.sweeper.sweep()
            sent |= set(lost.queue.messages)
            lost.queue.messages.clear()
        assert sent == lost.ids - {"s2"}

    def test_it_is_recovered_once_it_can_be_read(self, lost, unreadable):
        lost.sweep(later=MISSED)
        del lost.store.load
        lost.sweep(later=60)
        assert "s2" in lost.queue.messages

    def test_a_claim_of_it_does_not_hold_up_the_others(self, lost, unreadable, caplog):
        lost.store.heartbeat("dead", 1.0, ())
        for saga_id in ("s1", "s2", "s3"):
            lost.store.claim(saga_id, StepRef((0,), Direction.FORWARD, 1), Claim("t", "dead"))
        lost.now += MISSED
        with caplog.at_level("ERROR", "celery_saga"):
            for _ in range(3):
                lost.sweeper.reclaim(lost.store.heartbeat("alive", 6.0, ()))
        steps = {saga_id: lost.store._sagas[saga_id].steps[0] for saga_id in ("s1", "s2", "s3")}
        assert {saga_id: step.lost for saga_id, step in steps.items()} == {
            "s1": 1,
            "s2": 0,
            "s3": 1,
        }
        assert [claim for claim, _ in lost.store.claims_of("dead")] == ["s2"]
        assert len(unreadable) == len(caplog.records) == 1


class TestSeveralApps:
    """Two apps in one place: a worker acts upon sagas of which it has a task."""

    @pytest.fixture
    def heartbeat(self, lost: Fixture) -> Callable[[], None]:
        """A heartbeat of ours, and what follows; another app's instance is the one that sweeps."""
        lost.store.heartbeat("theirs", 9_999.0, ())

        def heartbeat() -> None:
            lost.now += MISSED
            lost.sweeper.act_upon(lost.store.heartbeat("ours", 6.0, ()), steady=True)

        return heartbeat

    def test_anothers_sagas_are_left_alone(self, lost, heartbeat):
        lost.store.register_app("mail")
        for _ in range(3):
            heartbeat()
        assert lost.queue.messages == []

    def test_our_own_are_not_reclaimed_by_any_sweep(self, lost, heartbeat):
        lost.store.register_app("mail")
        lost.queue.tasks = {"do.a"}
        heartbeat()
        assert set(lost.queue.messages) == lost.ids

    def test_a_compensations_task_is_enough(self, lost, heartbeat):
        lost.store.register_app("mail")
        lost.queue.tasks = {"compensation.b"}
        heartbeat()
        assert set(lost.queue.messages) == lost.ids

    def test_one_app_alone_has_one_sweeper_for_all(self, lost, heartbeat):
        lost.queue.tasks = {"do.a"}
        heartbeat()
        assert lost.queue.messages == []
        lost.queue.tasks.clear()
        lost.sweep(later=MISSED)
        assert set(lost.queue.messages) == lost.ids

    def test_anothers_take_none_of_our_places(self, lost):
        lost.store.register_app("mail")
        lost.queue.tasks = {"do.ours"}
        lost.now += 1
        orchestrator = lost.sweeper._orchestrator
        orchestrator.start(plan_of("ours"), "own", {}, token="own")
        lost.queue.messages.clear()
        lost.one_at_a_time()
        for _ in range(8):
            lost.now += MISSED
            lost.sweeper.act_upon(lost.store.heartbeat("ours", 6.0, ()), steady=True)
        assert set(lost.queue.messages) == {"own"}

    def test_claims_of_their_dead_instances_are_theirs(self, lost, heartbeat):
        lost.store.register_app("mail")
        ref = StepRef((0,), Direction.FORWARD, 1)
        lost.store.heartbeat("dead", 1.0, [Reserved("s1~f0~1")])
        lost.store.claim("s0", ref, Claim("t", "dead"))
        heartbeat()
        assert lost.store.load("s0").steps[0].lost == 0
        assert lost.store.claims_of("dead") == [("s0", ref)]
        assert lost.store.reserved_by() == {"dead": {Reserved("s1~f0~1")}}
        lost.queue.tasks = {"do.a"}
        lost.now += POLICY.skip_time
        heartbeat()
        assert lost.store.load("s0").steps[0].lost == 1

    def test_the_clash_is_logged_once(self, lost, heartbeat, caplog):
        lost.store.register_app("mail")
        with caplog.at_level("WARNING", "celery_saga"):
            heartbeat()
            heartbeat()
        (record,) = caplog.records
        assert "the app shop has sagas of other apps" in record.getMessage()
        assert "saga_key_prefix: mail" in record.getMessage()

    def test_it_is_over_a_day_after_their_last_worker(self, lost, heartbeat):
        lost.store.register_app("mail")
        heartbeat()
        lost.now += INSTANCE_RETENTION + 1
        lost.store.deregister("theirs")
        heartbeat()
        assert set(lost.queue.messages) == lost.ids


def test_what_is_sent_for_a_dead_worker_does_not_hide_lost_messages(lost: Fixture) -> None:
    lost.store.heartbeat("dead", 1.0, ())
    lost.store.claim("s0", StepRef((0,), Direction.FORWARD, 1), Claim("t", "dead"))
    lost.now += MISSED
    lost.sweeper.act_upon(lost.store.heartbeat("alive", 6.0, ()), steady=True)
    assert set(lost.queue.messages) == lost.ids


@pytest.mark.parametrize("verb", ["load", "save"])
def test_an_outage_during_a_look_is_over_when_the_store_is_back(lost: Fixture, verb: str) -> None:
    back = getattr(lost.store, verb)

    def unavailable(*args: Any, **kwargs: Any) -> Any:
        raise StoreUnavailable("unavailable")

    setattr(lost.store, verb, unavailable)
    with suppress(StoreUnavailable):  # whether it raises is the sweep's affair
        lost.sweep(later=MISSED)
    setattr(lost.store, verb, back)
    lost.sweep(later=MISSED)
    assert set(lost.queue.messages) == lost.ids


def test_an_unacknowledged_message_does_not_wait_in_its_queue(lost: Fixture) -> None:
    """No worker has it, and other messages are in the queue."""
    lost.queue.messages = ["another"]
    lost.queue.taken = {"tag 1": "s1~f0~1", "tag 2": "s3~f0~1", "old": "s2~f0~0", "x": "no step"}
    lost.sweep(later=MISSED)
    assert lost.queue.messages == ["another", "s1", "s3"]


def test_a_delivery_is_looked_for_once(lost: Fixture) -> None:
    """Its message may wait in the queue by now; one that was taken again is another matter."""
    lost.queue.messages = ["another"]
    lost.queue.taken = {"tag 1": "s1~f0~1"}
    for _ in range(3):
        lost.sweep(later=MISSED)
    assert lost.queue.messages == ["another", "s1"]
    lost.queue.taken = {"tag 1": "s1~f0~1", "tag 2": "s1~f0~1"}
    lost.sweep(later=MISSED)
    assert lost.queue.messages == ["another", "s1", "s1"]


def test_a_delivery_is_recovered_after_an_outage_of_the_store(lost: Fixture) -> None:
    """It was found lost, and then nothing could be saved."""
    save = lost.store.save

    def unavailable(*args: Any, **kwargs: Any) -> Any:
        raise StoreUnavailable("unavailable")

    lost.store.save = unavailable
    lost.queue.messages = ["another"]
    lost.queue.taken = {"tag 1": "s1~f0~1"}
    with pytest.raises(StoreUnavailable):
        lost.sweep(later=MISSED)
    lost.store.save = save
    lost.sweep(later=MISSED)
    assert lost.queue.messages == ["another", "s1"]


def test_a_delivery_that_a_worker_reports_is_not_lost(lost: Fixture) -> None:
    lost.queue.messages = ["another"]
    lost.queue.taken = {"tag 1": "s1~f0~1"}
    lost.now += MISSED
    lost.store.heartbeat("instance", 60, [Reserved("s1~f0~1")])
    lost.sweep(later=0)
    assert lost.queue.messages == ["another"]


def test_what_a_live_worker_has_reserved_is_waited_for_and_then_sent_again(lost: Fixture) -> None:
    """The worker may be busy, or may have given it to a process that hangs."""
    lost.store.heartbeat("instance", 9_999, [Reserved(f"{saga_id}~f0~1") for saga_id in lost.ids])
    lost.sweep(later=20)
    assert lost.queue.messages == []
    lost.sweep(later=20)
    assert set(lost.queue.messages) == lost.ids
    lost.sweep(later=MISSED)
    assert len(lost.queue.messages) == len(lost.ids)


class TestDeferred:
    """A worker keeps a message, as for a rate limit, and has given it to no process."""

    @pytest.fixture
    def reserved(self, lost: Fixture) -> list[Reserved]:
        task_ids = [f"{saga_id}~f0~1" for saga_id in sorted(lost.ids)]
        deferred = [Reserved(task_id, deferred=True) for task_id in task_ids]
        lost.store.heartbeat("instance", 99_999, deferred)
        return [Reserved(task_id) for task_id in task_ids]

    def test_it_is_not_sent_again_however_long_that_takes(self, lost, reserved):
        lost.queue.taken = {task_id: task_id for task_id, _ in reserved}
        lost.queue.waiting = {"queue": frozenset()}
        for _ in range(20):
            lost.sweep(later=600)
        assert lost.queue.messages == []

    def test_the_process_that_has_it_then_is_given_its_time(self, lost, reserved):
        lost.sweep(later=600)
        lost.store.heartbeat("instance", 99_999, reserved)
        for _ in range(5):
            lost.sweep(later=MISSED)
        assert lost.queue.messages == []
        lost.sweep(later=MISSED)
        lost.sweep(later=MISSED)
        assert set(lost.queue.messages) == lost.ids

    def test_it_is_lost_with_its_worker(self, lost, reserved):
        lost.sweep(later=600)
        lost.now += 99_999
        lost.sweeper.reclaim(lost.store.heartbeat("other", 6.0, ()))
        assert set(lost.queue.messages) == lost.ids
        assert lost.store.reserved_by() == {}

    def test_a_copy_that_another_live_worker_has_deferred_is_enough(self, lost, reserved):
        lost.store.heartbeat("dead", 1.0, reserved)
        lost.sweep(later=600)
        assert lost.queue.messages == []


def test_a_message_that_is_not_among_those_of_its_queue_is_sent_again(lost: Fixture) -> None:
    """At the second look: a worker may have received it whose heartbeat has not reported it yet."""
    lost.queue.messages = ["another"]
    lost.queue.waiting = {"queue": frozenset({"another", "s0~f0~1", "s1~f0~1"})}
    lost.sweep(later=MISSED)
    assert lost.queue.messages == ["another"]
    lost.queue.waiting = {"queue": frozenset({"another", "s0~f0~1"})}
    lost.sweep(later=KNOWN)
    assert lost.queue.messages == ["another", "s2", "s3", "s4"]


def test_what_is_seen_in_its_queue_is_not_sent_again(lost: Fixture) -> None:
    lost.queue.messages = ["another"]
    lost.queue.waiting = {"queue": frozenset(f"{saga_id}~f0~1" for saga_id in lost.ids)}
    lost.sweep(later=9_999)
    assert lost.queue.messages == ["another"]
    lost.queue.waiting = {}
    lost.sweep(later=MISSED)
    assert set(lost.queue.messages) == {"another", *lost.ids}


def test_a_long_queue_is_not_made_longer_for_five_minutes(lost: Fixture) -> None:
    lost.queue.messages = ["another"]
    lost.queue.long = frozenset({"queue"})
    lost.sweep(later=290)
    assert lost.queue.messages == ["another"]
    lost.sweep(later=20)
    assert set(lost.queue.messages) == {"another", *lost.ids}


def test_a_message_that_was_missed_once_may_be_found(lost: Fixture) -> None:
    lost.queue.messages = ["another"]
    lost.queue.waiting = {"queue": frozenset()}
    lost.sweep(later=MISSED)
    lost.store.heartbeat("instance", 5.0, [Reserved(f"{saga_id}~f0~1") for saga_id in lost.ids])
    lost.sweep(later=KNOWN)
    lost.store.heartbeat("instance", 9_999.0, ())
    lost.sweep(later=KNOWN)
    assert lost.queue.messages == ["another"]


class TestUnclaimed:
    """Messages that are missing each time: some worker takes them, or they reach no queue."""

    #: Seconds after which a message is sent again, the longest time.
    SLOW = 61.0

    def until_settled(self, lost: Fixture, looks: int = 12) -> list[str]:
        for _ in range(looks):
            lost.queue.messages.clear()  # a worker without the plugin has taken them
            lost.sweep(later=self.SLOW)
        executions = [lost.store.load(saga_id) for saga_id in sorted(lost.ids)]
        return [each.status.value for each in executions if each is not None]

    def test_resends_have_an_end(self, lost):
        assert set(self.until_settled(lost, 8)) == {"RUNNING"}
        assert set(self.until_settled(lost, 1)) == {"COMPENSATING"}

    def test_what_was_sent_nowhere_needs_an_operator(self, lost):
        lost.queue.not_sent_of = {"s1": MessageState.NOWHERE}
        statuses = self.until_settled(lost, 9)
        assert statuses == ["COMPENSATING", "STUCK", *["COMPENSATING"] * 3]

    def test_a_broker_that_takes_nothing_is_waited_for(self, lost):
        lost.queue.not_sent_of = dict.fromkeys(lost.ids, MessageState.UNSENT)
        assert set(self.until_settled(lost, 30)) == {"RUNNING"}
        lost.queue.messages.clear()
        lost.sweep(later=2 * MISSED)
        assert set(lost.queue.messages) == lost.ids

    def test_it_is_logged_from_the_second_time_on(self, lost, caplog):
        lost.queue.consumers = {"queue": ["old@host"]}
        with caplog.at_level("WARNING", "celery_saga"):
            self.until_settled(lost, 1)
            assert caplog.records == []
            self.until_settled(lost, 1)
        texts = [record.getMessage() for record in caplog.records]
        assert len(texts) == len(lost.ids)
        for text in texts:
            assert "task do.a of step 'a' is sent again, time 2: no worker has it" in text
            assert "(queue: queue; worker: old@host)" in text

    def test_the_workers_are_asked_once_a_minute(self, lost):
        lost.queue.consumers = {"queue": ["old@host"]}
        for _ in range(5):
            lost.queue.messages.clear()
            lost.sweep(later=10)
        assert lost.store.load("s0").steps[0].unclaimed > 2
        assert lost.queue.asked_for == [["queue"]]
        assert [alert.name for alert in lost.queue.alerts] == ["saga-foreign-worker"]
        assert "worker old@host consumes queue 'queue'" in lost.queue.alerts[0].text
        self.until_settled(lost, 1)
        assert len(lost.queue.asked_for) == 2

    def test_the_recovery_continues_if_they_cannot_be_asked(self, lost, caplog):
        def asks(queues: Collection[str]) -> Mapping[str, Collection[str]]:
            raise OSError("the broker is unavailable")

        lost.queue.workers_without_plugin = asks
        with caplog.at_level("WARNING", "celery_saga"):
            assert set(self.until_settled(lost, 9)) == {"COMPENSATING"}
        assert "could not be asked" in caplog.text

    def test_the_worker_that_had_them_is_named(self, lost, caplog):
        for number in range(3):
            held = [Reserved(f"{saga_id}~f0~1") for saga_id in lost.ids]
            lost.store.heartbeat(f"instance{number}", 1.0, held)
            lost.now += 30
            with caplog.at_level("WARNING", "celery_saga"):
                lost.sweeper.reclaim(lost.store.heartbeat("alive", 60.0, ()))
        assert "worker: instance1)" in caplog.text
        assert "the worker that had it is lost" in caplog.text

    def test_what_may_wait_is_resent_without_end(self, lost):
        lost.queue.messages = ["another"]
        for _ in range(50):
            lost.sweep(later=9_999)
        assert lost.store.load("s0").steps[0].unclaimed == 0
        assert lost.queue.asked_for == []


def test_the_broker_is_asked_once_for_all_sagas(lost: Fixture) -> None:
    lost.sweep(later=MISSED)
    assert lost.queue.asked == 1
