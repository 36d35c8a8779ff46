"""The ports of the engine: store, publishers, broker inspector and observers.

A store keeps executions and the facts about worker instances that recovery requires. It has few
methods, and none has a default body: a default for an atomic method would not be atomic. One suite
(:mod:`celery_saga.testing.store_contract`) runs over every store.

All times are the store's, in seconds since the epoch: workers' clocks may differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from celery_saga.core.events import Dispatch, MessageState, ReplyReceived, Transition
from celery_saga.core.execution import Claim, SagaExecution, SagaStatus, StepRef
from celery_saga.core.recovery.policy import POLICY


class Reserved(NamedTuple):
    """A step's message that a worker has received and not started.

    Args:
        task_id: of the step.
        deferred: the worker delays it, as for a rate limit; it is not in a process, which could
            hang.
    """

    task_id: str
    deferred: bool = False


@dataclass(frozen=True)
class HeartbeatReply:
    """The reply to a heartbeat.

    Args:
        at: store time.
        expired: instances whose heartbeat has expired and that still hold claims or messages.
        sweeper: whether this instance is the one that sweeps now.
        claims: saga ids and refs that this instance has claimed and not released.
    """

    at: float
    expired: tuple[str, ...] = ()
    sweeper: bool = False
    claims: tuple[tuple[str, StepRef], ...] = ()


#: Why a claim is refused whose ref still runs, and one whose saga does not exist.
CLAIMED, UNKNOWN = "claimed", "unknown saga"


@dataclass(frozen=True)
class Refused:
    """A claim that was not granted.

    Args:
        reason: a text for the log.
        owner: the valid claim, if there is one.
    """

    reason: str
    owner: Claim | None = None

    @property
    def over(self) -> bool:
        """Whether that ref has ended; otherwise it runs, or waits for a retry of its task."""
        return self.reason != CLAIMED


#: Seconds for which an instance is retained that has ended and holds nothing.
INSTANCE_RETENTION = POLICY.instance_retention

#: A step's message as plain data, before Celery has made a message of it.
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Envelope:
    """A message or a result in the form of one server; opaque to the engine.

    Args:
        endpoint: the server that it is for, as :attr:`Store.endpoint` names it.
        payload: the data; its sender and the stores on that server agree on the form.
    """

    endpoint: str
    payload: Any


class Found(NamedTuple):
    """A saga in the index of its status.

    Args:
        since: store time at which it got that status, seconds since the epoch, to a second.
        saga_id: its id.
    """

    since: float
    saga_id: str


class Store(Protocol):
    """Keeps executions; every change names the revision that it read.

    Every method may raise :class:`~celery_saga.errors.StoreUnavailable`, and may then be repeated:
    if it did its work and only the reply was lost, the second call returns the same.
    """

    @property
    def endpoint(self) -> str:
        """The server to which it writes envelopes in its own transactions; empty: none.

        For example ``"redis://host:6379/0"``. The orchestrator passes only envelopes of that
        endpoint; a store ignores any others in a batch.
        """
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes see the executions that this one has saved."""
        ...

    def now(self) -> float:
        """The store's time."""
        ...

    def create(
        self,
        execution: SagaExecution,
        token: str,
        batch: Sequence[Envelope] = (),
        replaces: SagaExecution | None = None,
    ) -> tuple[SagaExecution, bool]:
        """Save a new execution as revision 1, unless its id is taken.

        ``replaces`` is a terminal execution that may have the id: it is deleted by the same write,
        if that revision of it is still the newest. The envelopes of ``batch`` are written with the
        new one, as by :meth:`save`. One that is terminal already expires, as after :meth:`save`.

        Returns the execution that has the id, and whether this call created it (identified by
        ``token``, also when it is repeated).
        """
        ...

    def load(self, saga_id: str, context: bool = True) -> SagaExecution | None:
        """Return an execution, or ``None``; a store may omit the ``context`` if it is false."""
        ...

    def claim(
        self, saga_id: str, ref: StepRef, claim: Claim, plan: str | None = None, run_id: str = ""
    ) -> SagaExecution | Refused:
        """Claim ``ref`` by the rule of :func:`celery_saga.core.execution.claimed`, atomically.

        The store sets the claim's ``at``. With the hash of the saga's ``plan``, a store may
        return only the part of the execution that a step that succeeds requires
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
        """Replace ``before`` by ``after`` if its revision is still the newest; ``None`` if not.

        The envelopes of ``batch`` are written in the same transaction: all of it or nothing.

        ``token`` is unique to this change: a repetition returns the same as the first time, unless
        there was another save since. Returns ``after`` at its new revision. A settled execution
        ends :meth:`wait`. A terminal one expires after the store's retention; a live or stuck one
        does not, nor one whose result is still to be stored.

        Raises:
            PublishRefused: the server refused an envelope; nothing was saved.
        """
        ...

    def deliver(self, batch: Sequence[Envelope]) -> None:
        """Write envelopes alone, as :meth:`save` writes them with a checkpoint.

        A publisher uses it to find out whether they arrive.

        Raises:
            PublishRefused: the server refused an envelope.
        """
        ...

    def delete(self, saga_id: str, revision: int | None = None) -> bool:
        """Delete an execution, and the claims on it, if it has that ``revision``.

        Returns whether there was one.
        """
        ...

    def due(self, limit: int) -> list[str]:
        """Return the ids of sagas whose next check is due, the longest overdue first.

        A saga that has expired, or was removed without :meth:`delete`, is not due.
        """
        ...

    def find(
        self, status: SagaStatus, limit: int, name: str | None = None, until: float | None = None
    ) -> list[Found]:
        """Return the sagas in ``status`` (and of that name), the newest in it first.

        With ``until``: only those in that status since that store time or longer, to a second.
        """
        ...

    def count(self, status: SagaStatus, name: str | None = None) -> int:
        """Return how many sagas are in ``status`` (and of that name).

        Of those that have ended, some that have expired may still be counted.
        """
        ...

    def wait(self, saga_id: str, timeout: float) -> SagaExecution | None:
        """Return the execution once it is settled, or as it is after ``timeout`` seconds."""
        ...

    def heartbeat(
        self, instance: str, ttl: float, reserved: Collection[Reserved]
    ) -> HeartbeatReply:
        """Keep a worker instance alive for ``ttl`` seconds, and store its reserved messages."""
        ...

    def reserved_by(self) -> dict[str, frozenset[Reserved]]:
        """Return the reserved messages of each instance that has some."""
        ...

    def alive(self) -> frozenset[str]:
        """Return the instances that are alive."""
        ...

    def claims_of(self, instance: str) -> list[tuple[str, StepRef]]:
        """Return the saga ids and refs that ``instance`` has claimed and not released."""
        ...

    def deregister(self, instance: str, claims: Collection[tuple[str, StepRef]] = ()) -> None:
        """Drop the messages that an instance had reserved, and those ``claims`` of it.

        The instance has ended, and these are recovered. The instance itself is retained for
        :data:`INSTANCE_RETENTION`: a process of it that survives may still claim, and that claim
        has to be reclaimed as well.
        """
        ...

    def register_app(self, app: str) -> frozenset[str]:
        """Register that ``app`` has a worker; returns the apps with one in the retention time.

        The retention time is :data:`INSTANCE_RETENTION`. An empty name is not registered.
        """
        ...

    def close(self) -> None:
        """Release the connections."""
        ...


@dataclass(frozen=True)
class Backlog:
    """The state of a broker's queues and deliveries.

    Args:
        empty: names of queues that hold no message.
        unacknowledged: tags of deliveries that no worker has acknowledged, and the task id of each.
            Only deliveries that are old enough to be in the heartbeats of live workers, and only of
            brokers that do not deliver them again when the worker's connection ends.
        waiting: the task ids of all messages in a queue, where they are known and not too many.
        long: names of queues that hold many messages.
    """

    empty: frozenset[str] = frozenset()
    unacknowledged: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, frozenset[str]] = field(default_factory=dict)
    long: frozenset[str] = frozenset()


class Publisher(Protocol):
    """Sends steps; making a message and sending it are separate."""

    def message(self, execution: SagaExecution, command: Dispatch) -> Message:
        """Make the data that is required to send one step."""
        ...

    def first_message(self, execution: SagaExecution) -> tuple[SagaExecution, Message]:
        """Make a new execution's first message; returns the execution with its headers too."""
        ...

    def encode(self, message: Message) -> Envelope | None:
        """Encode a message for a store that writes it with a checkpoint; ``None``: publish it."""
        ...

    def publish(self, message: Message) -> None:
        """Send the message.

        Raises:
            UnsendableStep: it can never be sent, so the step fails. Any other error is logged, and
                the sweep sends it again.
        """
        ...

    def undelivered(self, task_id: str) -> MessageState | None:
        """The state of a message that this process has sent last: ``NOWHERE`` or ``UNSENT``.

        ``None``: it arrived, or another process has sent it.
        """
        ...

    def reconsider(self) -> None:
        """Make :meth:`encode` check again, because a store could not write an envelope."""
        ...


class ResultPublisher(Protocol):
    """Stores the results of settled sagas, and notifies their callers."""

    def encode(self, execution: SagaExecution) -> Envelope | None:
        """Encode the result of a saga that is about to settle, for a store that can write it.

        ``None``: :meth:`publish` has to store it, or to notify callers as well.

        Raises:
            NotLoaded: more of the execution must be loaded.
        """
        ...

    def publish(self, execution: SagaExecution) -> None:
        """Store the result of a settled saga, and notify its callers.

        Raises:
            Exception: any error; the sweep repeats the call.
        """
        ...


class BrokerInspector(Protocol):
    """Reads the state of the broker, its queues and the workers at them."""

    def has_task(self, name: str) -> bool:
        """Whether this process has the task of that name."""
        ...

    def queue_of(self, execution: SagaExecution, ref: StepRef) -> str:
        """The name of the queue to which a step's message goes; empty: not known."""
        ...

    def not_sent(self, execution: SagaExecution, ref: StepRef) -> MessageState | None:
        """The state of a message that no worker has: ``NOWHERE`` or ``UNSENT``, else ``None``.

        Only the process that has sent it last knows it.
        """
        ...

    def reply_to(self, execution: SagaExecution, ref: StepRef) -> ReplyReceived | None:
        """Return the reply to a remote step's request, if a result backend has it."""
        ...

    def workers_without_plugin(self, queues: Collection[str]) -> Mapping[str, Collection[str]]:
        """Return the names of workers that consume these queues without the plugin, by queue.

        Only workers that reply within a second or two.
        """
        ...

    def backlog(self, queues: Collection[str]) -> Backlog:
        """Return the broker's state of these queues; nothing, if it is unavailable."""
        ...


class Observer(Protocol):
    """Is notified of the changes of sagas, by the process that saved them, after the save."""

    @property
    def details(self) -> bool:
        """Whether it handles all transitions now, and not only the ends of sagas and alerts.

        The others are not computed for it if it does not.
        """
        ...

    def observe(self, transition: Transition) -> None:
        """Handle a transition without delay: the engine waits, in a worker within a step's time.

        An exception is logged. The transitions of a saga are in order as far as one process makes
        them. If a process dies between its save and this call, they are missing.
        """
        ...
