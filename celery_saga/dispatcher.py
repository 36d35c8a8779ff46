"""What the orchestrator needs of whoever sends messages; it knows no Celery."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from celery_saga.decide.events import Alert, Dispatch, MessageState
from celery_saga.execution import SagaExecution, Slot
from celery_saga.stores import Outbox


@dataclass(frozen=True)
class Backlog:
    """What a broker says of its messages.

    Args:
        empty: names of queues that hold nothing.
        given_away: deliveries that nobody has acknowledged, and the task id of each. Only those of
            which the hearts of live workers have had the time to tell; only of brokers that do not
            deliver them again when the worker's connection ends.
        waiting: the task ids of all messages in a queue, where they are known and not too many.
        long: names of queues that hold many.
    """

    empty: frozenset[str] = frozenset()
    given_away: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, frozenset[str]] = field(default_factory=dict)
    long: frozenset[str] = frozenset()


class Dispatcher(Protocol):
    """Sends what the orchestrator decided; building a request is apart from sending it."""

    def request(self, execution: SagaExecution, command: Dispatch) -> Mapping[str, Any]:
        """All that is needed to send one step, as plain data."""
        ...

    def opening(self, execution: SagaExecution) -> tuple[SagaExecution, Mapping[str, Any]]:
        """A new execution with the headers that its first message has, and the request of that."""
        ...

    def publish(self, request: Mapping[str, Any]) -> None:
        """Send it.

        Raises:
            UnsendableStep: it can never be sent: the step fails. Any other error is logged, and
                left to the sweep.
        """
        ...

    def outbox(self, requests: Sequence[Mapping[str, Any]]) -> Outbox | None:
        """The requests as what the store can send with a checkpoint; ``None``: publish them."""
        ...

    def settlement(self, execution: SagaExecution) -> Outbox | None:
        """The result of a saga that is about to settle, as what the store can store with it.

        ``None``: it is stored by :meth:`announce`.

        Raises:
            NotLoaded: more of the execution has to be known.
        """
        ...

    def outbox_failed(self) -> None:
        """The store could not send; :meth:`outbox` has to find out anew whether it can."""
        ...

    def announce(self, execution: SagaExecution) -> None:
        """The saga is settled: store its result, and tell its callers.

        Raises:
            Exception: any; the sweep repeats it.
        """
        ...

    def alert(self, execution: SagaExecution, alert: Alert) -> None:
        """A person should know."""
        ...

    def has_task(self, name: str) -> bool:
        """Whether this process has the task of that name."""
        ...

    def queue_of(self, execution: SagaExecution, slot: Slot) -> str:
        """The name of the queue to which a slot's message goes; empty: nobody knows."""
        ...

    def not_sent(self, execution: SagaExecution, slot: Slot) -> MessageState | None:
        """What is known of a message that nobody has: ``NOWHERE`` or ``UNSENT``, else ``None``.

        It is known in the process that has sent it last.
        """
        ...

    def strangers(self, queues: Collection[str]) -> Mapping[str, Collection[str]]:
        """Names of the workers that consume these queues and do not know of sagas, by queue.

        Only those that answer within a second or two.
        """
        ...

    def backlog(self, queues: Collection[str]) -> Backlog:
        """What the broker says of these queues; nothing, if it is away."""
        ...
