"""The broker, and the store seen over a network on which every write may go wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from celery_saga.core.events import Dispatch, Subject, Transition
from celery_saga.core.execution import Claim, Direction, SagaExecution, SagaStatus, StepRef
from celery_saga.core.ports import Backlog, Envelope, Refused
from celery_saga.errors import PublishRefused, StoreUnavailable, UnsendableStep
from celery_saga.stores.memory import MemoryStore
from tests.simulator.schedule import Event, Fault

T = TypeVar("T")

#: The endpoint of a broker that is on the store's server.
HERE = "here"


class Died(BaseException):
    """The process dies in the midst of its work; nothing in it can catch this."""


@dataclass(frozen=True)
class Message:
    """A message of the simulated broker."""

    saga_id: str
    ref: StepRef
    retries: int = 0

    def __str__(self) -> str:
        return f"{self.saga_id} {self.ref}" + (f" r{self.retries}" if self.retries else "")


class Bystanders(Protocol):
    """The rest of the world, as seen from the midst of an event."""

    def meanwhile(self, others: Sequence[Event]) -> None:
        """Let others act."""

    def struck(self, fault: Fault) -> None:
        """A fault came to pass."""

    def created(
        self, before: SagaExecution | None, answer: tuple[SagaExecution, bool], same: bool
    ) -> None:
        """The store has answered to a start; ``same``: it is the one that made ``before``."""

    def claimed(self, saga_id: str, ref: StepRef, token: str) -> None:
        """The store has given a claim."""

    def replaced(self, old: SagaExecution, before: SagaExecution) -> None:
        """A checkpoint that was decided upon ``before`` takes the place of ``old``."""

    def saved(self, before: SagaExecution, after: SagaExecution) -> None:
        """The store has put ``after`` in the place of ``before``."""

    def sends(self, message: Message) -> None:
        """A message goes out."""

    def publishes(self, execution: SagaExecution) -> None:
        """A result is stored, and callers are notified."""


class FaultPlan:
    """Injects a fault into one of the writes of an event."""

    def __init__(self, world: Bystanders) -> None:
        self._world = world
        self._fault: Fault | None = None
        self._writes = 0

    def set(self, fault: Fault | None) -> Fault | None:
        """Set the fault of the next writes; return the one that was set before."""
        before, self._fault, self._writes = self._fault, fault, 0
        return before

    def write(self, call: Callable[[], T], kinds: Mapping[str, Exception]) -> T:
        """Carry out a write, or not.

        Args:
            kinds: what is raised for which fault, besides those that any write may meet.
        """
        fault = self._due()
        kind = fault.kind if fault else ""
        if fault is not None:
            if kind in kinds or kind in ("die_before", "die_after"):
                self._world.struck(fault)
            if kind == "others_first":
                self._world.struck(fault)
                self._world.meanwhile(fault.others)
            elif kind == "die_before":
                raise Died
            elif kind in kinds and kind != "unavailable_after":
                raise kinds[kind]
        done = call()
        if kind == "die_after":
            raise Died
        if kind == "unavailable_after" and kind in kinds:
            raise kinds[kind]
        if fault is not None and kind == "answer_lost" and "unavailable_after" in kinds:
            self._world.struck(fault)
            self._world.meanwhile(fault.others)
            done = call()
        return done

    def _due(self) -> Fault | None:
        self._writes += 1
        if self._fault is None or self._writes <= self._fault.write:
            return None
        fault, self._fault = self._fault, None
        return fault


class Broker:
    """Keeps messages in no order, and takes them from the orchestrator."""

    details = True

    def __init__(self, faults: FaultPlan, world: Bystanders, outbox: bool) -> None:
        self._faults, self._world = faults, world
        self.with_store = outbox
        self.queue: list[Message] = []
        #: Every message that was ever sent; any of them may come again.
        self.sent: list[Message] = []
        #: The result backend, and how often the callers of each saga were notified of its end.
        self.results: dict[str, SagaStatus] = {}
        self.notified: dict[str, int] = {}
        self.alerts: list[str] = []

    def send(self, message: Message) -> None:
        """Into the queue."""
        self._world.sends(message)
        self.queue.append(message)
        self.sent.append(message)

    def first_message(self, execution: SagaExecution) -> tuple[SagaExecution, Mapping[str, Any]]:
        return execution, self.message(execution, Dispatch(StepRef((0,), Direction.FORWARD, 1)))

    def message(self, execution: SagaExecution, command: Dispatch) -> Mapping[str, Any]:
        message = Message(execution.saga_id, command.ref, command.retries)
        return {"message": message, "step": execution.steps[command.ref.path].name}

    def publish(self, message: Mapping[str, Any]) -> None:
        unavailable = ConnectionError("the broker is unavailable")
        unsendable = UnsendableStep(message["step"], "task", "its queue is not known")
        self._faults.write(
            lambda: self.send(message["message"]),
            {
                "unavailable_before": unavailable,
                "unavailable_after": unavailable,
                "unsendable": unsendable,
            },
        )

    def encode(self, message: Mapping[str, Any]) -> Envelope | None:
        return Envelope(HERE, message["message"]) if self.with_store else None

    def reconsider(self) -> None:
        pass

    def undelivered(self, task_id: str) -> None: ...

    def publish_and_notify(self, execution: SagaExecution) -> None:
        unavailable = ConnectionError("the result backend is unavailable")
        kinds = {"unavailable_before": unavailable, "unavailable_after": unavailable}
        self._faults.write(lambda: self.publish_result(execution), kinds)

    def publish_result(self, execution: SagaExecution) -> None:
        """Store the result, and notify the callers."""
        saga_id = execution.saga_id
        self._world.publishes(execution)
        self.results[saga_id] = execution.status
        self.notified[saga_id] = self.notified.get(saga_id, 0) + (execution.callbacks is not None)

    def observe(self, transition: Transition) -> None:
        if transition.subject is Subject.ALERT:
            self.alerts.append(transition.after)

    def has_task(self, name: str) -> bool:
        return True

    def queue_of(self, execution: SagaExecution, ref: StepRef) -> str:
        return "queue"

    def reply_to(self, *about: Any) -> None: ...

    def not_sent(self, execution: SagaExecution, ref: StepRef) -> None: ...

    def workers_without_plugin(self, queues: Collection[str]) -> Mapping[str, Collection[str]]:
        return {}

    def backlog(self, queues: Collection[str]) -> Backlog:
        """One in five messages counts as unacknowledged, whether it is or not.

        What waits in the queue is known now and then.
        """
        unacknowledged = {
            str(number): message.ref.task_id(message.saga_id)
            for number, message in enumerate(self.sent)
            if number % 5 == 0
        }
        ids = frozenset(message.ref.task_id(message.saga_id) for message in self.queue)
        waiting = {"queue": ids} if len(self.sent) % 2 else {}
        return Backlog(frozenset() if self.queue else frozenset(queues), unacknowledged, waiting)


class Results:
    """The result backend, on the broker's server."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def encode(self, execution: SagaExecution) -> Envelope | None:
        return Envelope(HERE, execution) if self._broker.with_store else None

    def publish(self, execution: SagaExecution) -> None:
        self._broker.publish_and_notify(execution)


class FaultyStore(MemoryStore):
    """A memory store whose writes meet the planned faults; a write sends its envelopes as well."""

    def __init__(self, clock: Callable[[], float], faults: FaultPlan, world: Bystanders) -> None:
        super().__init__(clock)
        self._faults, self._world = faults, world
        self._creations: dict[str, str] = {}
        self.broker = Broker(faults, world, False)

    def create(
        self,
        execution: SagaExecution,
        token: str,
        batch: Sequence[Envelope] = (),
        replaces: SagaExecution | None = None,
    ) -> tuple[SagaExecution, bool]:
        def write() -> tuple[SagaExecution, bool]:
            before = self.load(execution.saga_id)
            answer = super(FaultyStore, self).create(execution, token)
            same = self._creations.setdefault(execution.saga_id, token) == token
            self._world.created(before, answer, same)
            self._push(batch if before is None else ())
            return answer

        return self._write(write, batch)

    def claim(
        self, saga_id: str, ref: StepRef, claim: Claim, plan: str | None = None, run_id: str = ""
    ) -> SagaExecution | Refused:
        def write() -> SagaExecution | Refused:
            answer = super(FaultyStore, self).claim(saga_id, ref, claim, plan, run_id)
            if not isinstance(answer, Refused):
                self._world.claimed(saga_id, ref, claim.token)
            return answer

        return self._write(write, ())

    def save(
        self,
        before: SagaExecution,
        after: SagaExecution,
        token: str,
        batch: Sequence[Envelope] = (),
    ) -> SagaExecution | None:
        def write() -> SagaExecution | None:
            old = self.load(before.saga_id)
            saved = super(FaultyStore, self).save(before, after, token)
            fresh = saved is not old and saved is self.load(before.saga_id)
            if saved is not None and old is not None and fresh:
                self._world.replaced(old, before)
                self._world.saved(before, saved)
                self._push(batch)
            return saved

        return self._write(write, batch)

    @property
    def endpoint(self) -> str:
        return HERE

    def _push(self, batch: Sequence[Envelope]) -> None:
        for envelope in batch:
            if isinstance(envelope.payload, SagaExecution):
                self.broker.publish_result(envelope.payload)
            else:
                self.broker.send(envelope.payload)

    def _write(self, write: Callable[[], T], batch: Sequence[Envelope]) -> T:
        unavailable = StoreUnavailable("the store is unavailable")
        kinds: dict[str, Exception] = {
            "unavailable_before": unavailable,
            "unavailable_after": unavailable,
        }
        if batch:
            kinds["outbox_refused"] = PublishRefused("the script is refused")
        return self._faults.write(write, kinds)
