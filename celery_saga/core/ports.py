"""The ports of the engine: store, publishers, broker inspector and observers.

A store keeps executions and the facts about worker instances that recovery needs. Its verbs are
few and have no default bodies: an atomic verb with a non-atomic default would be a trap. One suite
(:mod:`celery_saga.testing.store_contract`) runs over every store.

All times are the store's, in seconds since the epoch: workers' clocks may differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from celery_saga.core.events import Dispatch, MessageState, Transition
from celery_saga.core.execution import Claim, SagaExecution, SagaStatus, StepRef
from celery_saga.core.recovery.policy import POLICY


class Reserved(NamedTuple):
    """A step's message that a worker has received and not started.

    Args:
        task_id: of the step.
        deferred: the worker keeps it for later, as for a rate limit; no process has it that could
            hang.
    """

    task_id: str
    deferred: bool = False


@dataclass(frozen=True)
class HeartbeatReply:
    """What a heartbeat learned.

    Args:
        at: store time.
        expired: instances whose liveness has run out and that still hold claims or messages.
        sweeper: whether this instance is the one that sweeps now.
        claims: saga ids and refs that this instance has claimed and not given up.
    """

    at: float
    expired: tuple[str, ...] = ()
    sweeper: bool = False
    claims: tuple[tuple[str, StepRef], ...] = ()


#: Why a claim on a ref that is not over is refused, and one on a saga that is not there.
CLAIMED, UNKNOWN = "claimed", "unknown saga"


@dataclass(frozen=True)
class Refused:
    """A claim that was not granted.

    Args:
        reason: in words, for the log.
        owner: the claim that stands, if there is one.
    """

    reason: str
    owner: Claim | None = None

    @property
    def over(self) -> bool:
        """Whether that ref is over; otherwise it runs, or waits for a retry of its task."""
        return self.reason != CLAIMED


#: Seconds for which an instance is retained that has ended and holds nothing.
INSTANCE_RETENTION = POLICY.instance_retention

#: A step's message before Celery has made one of it, as plain data.
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Envelope:
    """A message or a result in the form that one server takes; opaque to the engine.

    Args:
        endpoint: the server that it is for, as :attr:`Store.endpoint` names it.
        payload: what is written there; its sender and the stores on that server agree on the form.
    """

    endpoint: str
    payload: Any


class Store(Protocol):
    """Keeps executions; every change names the revision that it read.

    Every verb may raise :class:`~celery_saga.errors.StoreUnavailable`, and may then be repeated: a
    verb that did its work and whose answer was lost answers the same the second time.
    """

    @property
    def endpoint(self) -> str:
        """The server to which it writes envelopes in its own transactions; empty: it carries none.

        ``"redis://host:6379/0"``, for one. The orchestrator gives it envelopes of that endpoint
        only; whatever else a batch holds, a store leaves out.
        """
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes see what this one has saved."""
        ...

    def now(self) -> float:
        """The store's time."""
        ...

    def create(
        self, execution: SagaExecution, token: str, batch: Sequence[Envelope] = ()
    ) -> tuple[SagaExecution, bool]:
        """Save a new execution as revision 1, unless its id is taken.

        The envelopes of ``batch`` are written with it, as by :meth:`save`. An execution that is
        terminal already expires, as after :meth:`save`.

        Returns the execution that has the id, and whether this call (told by ``token``, also when
        it is repeated) created it.
        """
        ...

    def load(self, saga_id: str, context: bool = True) -> SagaExecution | None:
        """The execution, or ``None``; a store may leave out the ``context`` if it is not wanted."""
        ...

    def claim(
        self, saga_id: str, ref: StepRef, claim: Claim, plan: str | None = None, run_id: str = ""
    ) -> SagaExecution | Refused:
        """Take ``ref`` by the rule of :func:`celery_saga.core.execution.claimed`, atomically.

        The claim's ``at`` is set by the store. With the hash of the saga's ``plan``, a store may
        answer with no more of the execution than a step that succeeds needs
        (:mod:`celery_saga.core.context.lazy`). A message of another run of the id is stale.

        Raises:
            UnsupportedCheckpoint: a newer version saved it; it is not claimed.
        """
        ...

    def save(
        self,
        before: SagaExecution,
        after: SagaExecution,
        token: str,
        batch: Sequence[Envelope] = (),
    ) -> SagaExecution | None:
        """Replace ``before`` by ``after`` if its revision still stands; ``None`` if not.

        The envelopes of ``batch`` are written in the same transaction: all of it or nothing.

        ``token`` is unique to this change: a repeat of it answers as the first time, unless there
        was another save since. Answers with ``after`` at its new revision. A settled execution
        wakes those who wait; a terminal one expires by itself after the store's retention, a live
        or stuck one never, nor one whose result is still to be stored.

        Raises:
            PublishRefused: the server refused an envelope; nothing was saved.
        """
        ...

    def deliver(self, batch: Sequence[Envelope]) -> None:
        """Write envelopes by themselves, as :meth:`save` writes them with a checkpoint.

        A publisher finds out with it whether they arrive.

        Raises:
            PublishRefused: the server refused an envelope.
        """
        ...

    def delete(self, saga_id: str, revision: int | None = None) -> bool:
        """Forget an execution, and the claims on it, if it has that ``revision``.

        Returns whether there was one.
        """
        ...

    def due(self, limit: int) -> list[str]:
        """Ids of sagas whose next check is due, the longest overdue first.

        One that is gone without :meth:`delete` (it expired, or somebody dropped it) is not due.
        """
        ...

    def find(
        self, status: SagaStatus, limit: int, name: str | None = None, until: float | None = None
    ) -> list[str]:
        """Ids of sagas in ``status`` (and of that name), the newest in that status first.

        With ``until``: of those that have been in it since that store time or longer, to a second.
        """
        ...

    def wait(self, saga_id: str, timeout: float) -> SagaExecution | None:
        """The execution once it is settled, or as it is after ``timeout`` seconds."""
        ...

    def heartbeat(
        self, instance: str, ttl: float, reserved: Collection[Reserved]
    ) -> HeartbeatReply:
        """Keep a worker instance alive for ``ttl`` seconds, and note what it has reserved."""
        ...

    def reserved_by(self) -> dict[str, frozenset[Reserved]]:
        """Instance -> messages, for all instances that have reserved some."""
        ...

    def alive(self) -> frozenset[str]:
        """The instances that are alive."""
        ...

    def claims_of(self, instance: str) -> list[tuple[str, StepRef]]:
        """Saga ids and refs that ``instance`` has claimed and not given up."""
        ...

    def deregister(self, instance: str, claims: Collection[tuple[str, StepRef]] = ()) -> None:
        """Drop the messages that an instance had reserved, and those ``claims`` of it.

        It has ended, and they are dealt with. The instance itself is retained for
        :data:`INSTANCE_RETENTION`: a process of it that lives on may still claim, and that claim
        has to be reclaimed as well.
        """
        ...

    def register_app(self, app: str) -> frozenset[str]:
        """Note that ``app`` has a worker; the apps that had one in :data:`INSTANCE_RETENTION`.

        Without a name nothing is noted.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


@dataclass(frozen=True)
class Backlog:
    """What a broker says of its messages.

    Args:
        empty: names of queues that hold nothing.
        unacknowledged: tags of deliveries that no worker has acknowledged, and the task id of each.
            Only those of which the heartbeats of live workers have had the time to tell; only of
            brokers that do not deliver them again when the worker's connection ends.
        waiting: the task ids of all messages in a queue, where they are known and not too many.
        long: names of queues that hold many.
    """

    empty: frozenset[str] = frozenset()
    unacknowledged: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, frozenset[str]] = field(default_factory=dict)
    long: frozenset[str] = frozenset()


class Publisher(Protocol):
    """Sends steps; making a message is apart from sending it."""

    def message(self, execution: SagaExecution, command: Dispatch) -> Message:
        """All that is needed to send one step."""
        ...

    def first_message(self, execution: SagaExecution) -> tuple[SagaExecution, Message]:
        """A new execution with the headers that its first message has, and that message."""
        ...

    def encode(self, message: Message) -> Envelope | None:
        """The message for a store that can write it with a checkpoint; ``None``: publish it."""
        ...

    def publish(self, message: Message) -> None:
        """Send it.

        Raises:
            UnsendableStep: it can never be sent: the step fails. Any other error is logged, and
                left to the sweep.
        """
        ...

    def undelivered(self, task_id: str) -> MessageState | None:
        """What became of a message that this process has sent last: ``NOWHERE`` or ``UNSENT``.

        ``None``: it arrived, or another process has sent it.
        """
        ...

    def reconsider(self) -> None:
        """A store could not write an envelope: :meth:`encode` finds out anew whether it can."""
        ...


class ResultPublisher(Protocol):
    """Stores the results of settled sagas, and notifies their callers."""

    def encode(self, execution: SagaExecution) -> Envelope | None:
        """The result of a saga that is about to settle, for a store that can write it with that.

        ``None``: :meth:`publish` has to store it, or to notify callers as well.

        Raises:
            NotLoaded: more of the execution has to be known.
        """
        ...

    def publish(self, execution: SagaExecution) -> None:
        """The saga is settled: store its result, and notify its callers.

        Raises:
            Exception: any; the sweep repeats it.
        """
        ...


class BrokerInspector(Protocol):
    """What is known of the broker, its queues and the workers at them."""

    def has_task(self, name: str) -> bool:
        """Whether this process has the task of that name."""
        ...

    def queue_of(self, execution: SagaExecution, ref: StepRef) -> str:
        """The name of the queue to which a step's message goes; empty: it is not known."""
        ...

    def not_sent(self, execution: SagaExecution, ref: StepRef) -> MessageState | None:
        """What is known of a message that no worker has: ``NOWHERE`` or ``UNSENT``, else ``None``.

        It is known in the process that has sent it last.
        """
        ...

    def workers_without_plugin(self, queues: Collection[str]) -> Mapping[str, Collection[str]]:
        """Names of the workers that consume these queues and do not know of sagas, by queue.

        Only those that answer within a second or two.
        """
        ...

    def backlog(self, queues: Collection[str]) -> Backlog:
        """What the broker says of these queues; nothing, if it is unavailable."""
        ...


class Observer(Protocol):
    """Is told what became of sagas, by the process that saved it, after the save."""

    def observe(self, transition: Transition) -> None:
        """Take note of a transition, at once: the engine waits, in a worker within a step's time.

        What is raised is logged. The transitions of a saga come in their order as far as one
        process makes them; of a process that dies between its save and this call they do not come.
        """
        ...
