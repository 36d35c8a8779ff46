"""What is wrong with one saga keeps no other from being recovered, nor from being sent again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from celery_saga.core.execution import SagaExecution, SagaStatus
from celery_saga.core.orchestrator import Orchestrator
from celery_saga.core.ports import Backlog, Reserved
from celery_saga.core.recovery import sweep
from celery_saga.core.retry import SavedByOthers
from celery_saga.errors import UnreadableCheckpoint
from celery_saga.stores.memory import MemoryStore
from celery_saga.testing.builders import claim, create


class Clock:
    """The store's time and this process's."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Store(MemoryStore):
    """A store of which one record cannot be read, or one saga is always saved by others."""

    unreadable = hot = ""

    def load(self, saga_id: str, context: bool = True) -> SagaExecution | None:
        if saga_id == self.unreadable:
            raise UnreadableCheckpoint(saga_id, "head", "damaged")
        return super().load(saga_id, context)

    def save(self, before: SagaExecution, *args: Any, **more: Any) -> SagaExecution | None:
        return None if before.saga_id == self.hot else super().save(before, *args, **more)


class Sent:
    """Takes messages and results."""

    def __init__(self) -> None:
        self.sagas: list[str] = []

    def message(self, execution: SagaExecution, command: Any) -> Mapping[str, Any]:
        return {"saga": execution.saga_id}

    def encode(self, what: Any) -> None:
        return None

    def publish(self, what: Any) -> None:
        if isinstance(what, Mapping):
            self.sagas.append(what["saga"])

    def reconsider(self) -> None: ...

    def undelivered(self, task_id: str) -> None:
        return None


class Broker:
    """One queue, with these messages in it."""

    def __init__(self) -> None:
        self.waiting: frozenset[str] | None = frozenset()

    def backlog(self, queues: Collection[str]) -> Backlog:
        if self.waiting is None:
            return Backlog(long=frozenset(queues))
        return Backlog(waiting=dict.fromkeys(queues, self.waiting))

    def queue_of(self, *about: Any) -> str:
        return "q"

    def has_task(self, name: str) -> bool:
        return True

    def reply_to(self, *about: Any) -> None: ...

    def not_sent(self, *about: Any) -> None:
        return None

    def workers_without_plugin(self, queues: Collection[str]) -> Mapping[str, Collection[str]]:
        return {}


class Place:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.sent, self.broker = Clock(), Sent(), Broker()
        monkeypatch.setattr(sweep.time, "monotonic", self.clock)
        self.store, waits = Store(self.clock), lambda seconds: None
        sent: Any = self.sent
        self.orchestrator = Orchestrator(self.store, sent, sent, pause=waits)
        self.sweeper = sweep.Sweeper(self.orchestrator, self.broker)

    def pass_time(self, seconds: float) -> None:
        """A heartbeat every two seconds, each with a pass of the sweep."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.sweeper.act_upon(self.store.heartbeat("me", 6, ()), True)
            self.clock.now += 2


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


@pytest.mark.parametrize("known", [True, False], ids=["seen in its queue", "in a long queue"])
def test_a_message_of_a_dead_worker_with_an_unreadable_saga(place: Place, known: bool) -> None:
    """Its copy waits in the queue of busy workers, and is not counted as lost again and again."""
    bad, good = create(place.store), create(place.store)
    ref = good.first_active
    assert ref is not None
    message = ref.task_id(good.saga_id)
    place.broker.waiting = frozenset([message]) if known else None
    claim(place.store, bad, instance="dead")
    place.store.heartbeat("dead", 6, (Reserved(message),))
    place.store.unreadable = bad.saga_id
    place.clock.now += 10

    place.pass_time(1_200)

    found = place.orchestrator.load(good.saga_id)
    assert found.status is SagaStatus.RUNNING
    assert found.steps[0].unclaimed <= 2
    assert 1 <= place.sent.sagas.count(good.saga_id) <= 5


def test_a_saga_that_others_always_save_first(place: Place) -> None:
    hot = create(place.store)
    place.clock.now += 1
    others = [create(place.store) for _ in range(3)]
    claimed = create(place.store)
    claim(place.store, claimed, instance="dead")
    place.store.heartbeat("dead", 6, ())
    place.store.hot = hot.saga_id
    place.clock.now += 20

    place.pass_time(20)

    assert {each.saga_id for each in others} <= set(place.sent.sagas)
    assert place.store.claims_of("dead") == []


def test_it_is_known_by_its_class(place: Place) -> None:
    hot = create(place.store)
    place.store.hot = hot.saga_id
    place.clock.now += 20

    with pytest.raises(SavedByOthers, match=hot.saga_id):
        place.orchestrator.apply(
            hot.saga_id, sweep.Overdue(place.clock.now, sweep.MessageState.MISSING)
        )
