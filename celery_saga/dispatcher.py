"""What the orchestrator needs of whoever sends messages; it knows no Celery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from celery_saga.decide.events import Alert, Dispatch
from celery_saga.execution import SagaExecution, Slot
from celery_saga.stores import Outbox


class Dispatcher(Protocol):
    """Sends what the orchestrator decided; building a request is apart from sending it."""

    def request(self, execution: SagaExecution, command: Dispatch) -> Mapping[str, Any]:
        """All that is needed to send one step, as plain data."""
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

    def queue_is_empty(self, execution: SagaExecution, slot: Slot) -> bool | None:
        """Whether the queue of a slot's message holds nothing; ``None`` if that is not known."""
        ...

    def handed_out(self) -> frozenset[str]:
        """Task ids of messages that some worker has taken and not acknowledged, where known."""
        ...
