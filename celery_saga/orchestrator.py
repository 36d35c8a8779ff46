"""The shell round the state machine: claim or load, decide, save, send. Knows no Celery.

Crash before the save: nothing happened. Crash after it: the sweep looks at the saga and comes
through the same door with its own event. There is no second path.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from celery_saga import codec
from celery_saga.decide import decide
from celery_saga.decide.events import (
    Alert,
    Announce,
    ClaimVoided,
    Dispatch,
    Event,
    Looked,
    MessageState,
    Started,
)
from celery_saga.errors import (
    OutboxRefused,
    SagaExecutionNotFoundException,
    StoreUnavailable,
)
from celery_saga.execution import Claim, SagaExecution, Slot
from celery_saga.plan import Plan
from celery_saga.stores import Outbox, Pulse, Refused, Store

log = logging.getLogger("celery_saga")

T = TypeVar("T")

#: Pauses between two attempts at a store or broker that is away, in seconds; the last one repeats.
PATIENCE_STEPS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def patiently(call: Callable[[], T], patience: float) -> T:
    """Repeat ``call`` while the store is away, for ``patience`` seconds."""
    give_up, tried = time.monotonic() + patience, 0
    while True:
        try:
            return call()
        except StoreUnavailable:
            pause = PATIENCE_STEPS[min(tried, len(PATIENCE_STEPS) - 1)]
            if time.monotonic() + pause > give_up:
                raise
            time.sleep(pause)
            tried += 1


class Dispatcher(Protocol):
    """Sends what the orchestrator decided; building a request is apart from sending it."""

    def request(self, execution: SagaExecution, command: Dispatch) -> Mapping[str, Any]:
        """All that is needed to send one step, as plain data."""
        ...

    def publish(self, request: Mapping[str, Any]) -> None:
        """Send it. What is raised here is logged, and left to the sweep."""
        ...

    def outbox(self, requests: Sequence[Mapping[str, Any]]) -> Outbox | None:
        """The requests as what the store can send with a checkpoint; ``None``: publish them."""
        ...

    def outbox_failed(self) -> None:
        """The store could not send; :meth:`outbox` has to find out anew whether it can."""
        ...

    def announce(self, execution: SagaExecution) -> None:
        """The saga is settled."""
        ...

    def alert(self, execution: SagaExecution, alert: Alert) -> None:
        """A person should know."""
        ...

    def queue_is_empty(self, execution: SagaExecution, slot: Slot) -> bool | None:
        """Whether the queue of a slot's message holds nothing; ``None`` if that is not known."""
        ...


class Orchestrator:
    """Feeds events through the state machine and carries out what it decides.

    Args:
        store: keeps the executions.
        dispatcher: sends the steps.
        patience: seconds for which a store that is away is tried again, where nothing else could
            keep the news.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher, patience: float = 60.0) -> None:
        self.store = store
        self.dispatcher = dispatcher
        self.patience = patience

    def start(
        self,
        plan: Plan,
        saga_id: str,
        values: Mapping[str, Any],
        *,
        token: str,
        countdown: float | None = None,
        deadline: float | None = None,
    ) -> tuple[SagaExecution, bool]:
        """Create a saga and send its first step; or give back the one that has the id.

        Args:
            token: unique to this call.
            countdown: seconds until the first step is sent.
            deadline: seconds after which the way forward is given up.

        Returns:
            The execution and whether this call created it.
        """
        codec.check(dict(values), "context")
        at = self.store.now()
        until = None if deadline is None else at + deadline
        execution = SagaExecution.create(saga_id, plan, values, at=at, deadline=until)
        not_before = None if countdown is None else at + countdown
        decision = decide(execution, Started(at, not_before))
        requests = self._requests(decision.execution, decision.commands)
        (saved, created), left = self._with_outbox(
            requests, partial(self.store.create, decision.execution, token)
        )
        if created:
            self._carry_out(saved, decision.commands, left)
        return saved, created

    def load(self, saga_id: str) -> SagaExecution:
        """The execution.

        Raises:
            SagaExecutionNotFoundException: there is none.
        """
        found = self.store.load(saga_id)
        if found is None:
            raise SagaExecutionNotFoundException(saga_id)
        return found

    def claim(self, saga_id: str, slot: Slot, claim: Claim) -> SagaExecution | Refused:
        """Take a slot before its body runs, waiting out a store that is away."""
        return patiently(lambda: self.store.claim(saga_id, slot, claim), patience=self.patience)

    def handle(
        self,
        saga_id: str,
        event: Event,
        known: SagaExecution | None = None,
        *,
        patience: float = 0.0,
    ) -> SagaExecution:
        """Let ``event`` have its effect; ``known`` saves a load if it is still the newest.

        Args:
            patience: seconds for which a store that is away is tried again.

        Raises:
            SagaError: the decision's refusal of a request.
            SagaExecutionNotFoundException: the saga is gone.
        """
        patient = partial(patiently, patience=patience)
        execution = known if known is not None else patient(lambda: self.load(saga_id))
        while True:
            decision = decide(execution, event)
            if decision.refusal is not None:
                raise decision.refusal
            if decision.execution is execution:
                return execution
            requests = self._requests(decision.execution, decision.commands)
            save = partial(self.store.save, execution, decision.execution, uuid.uuid4().hex)
            saved, left = self._with_outbox(requests, save, patience)
            if saved is not None:
                self._carry_out(saved, decision.commands, left)
                return saved
            execution = patient(lambda: self.load(saga_id))

    def report(
        self, saga_id: str, event: Event, known: SagaExecution | None = None
    ) -> SagaExecution:
        """As :meth:`handle`, for news that nobody else has: waits out a store that is away."""
        return self.handle(saga_id, event, known, patience=self.patience)

    def sweep(self, limit: int = 100) -> int:
        """Look at what is due, at most ``limit`` sagas; how many were looked at."""
        due = self.store.due(limit)
        if not due:
            return 0
        holders, alive = self.store.holders(), self.store.alive()
        for saga_id in due:
            execution = self.store.load(saga_id)
            if execution is not None:
                state = self._message_state(execution, holders, alive)
                self.handle(saga_id, Looked(self.store.now(), state), execution)
        return len(due)

    def _message_state(
        self, execution: SagaExecution, holders: Mapping[str, str], alive: frozenset[str]
    ) -> MessageState:
        if execution.settled:
            return MessageState.UNSEEN
        slot = execution.slot(execution.position)
        if slot is None or execution.steps[slot.step].claim is not None:
            return MessageState.UNSEEN
        holder = holders.get(slot.task_id(execution.saga_id))
        if holder is not None:
            return MessageState.HELD if holder in alive else MessageState.LOST
        empty = self.dispatcher.queue_is_empty(execution, slot)
        return MessageState.GONE if empty else MessageState.QUEUED

    def bury(self, pulse: Pulse) -> int:
        """Void the claims of boots that are dead; how many there were."""
        count = 0
        for instance in pulse.dead:
            for saga_id, slot in self.store.claims_of(instance):
                self.void(saga_id, slot, instance)
                count += 1
            for task_id, holder in self.store.holders().items():
                found = Slot.parse(task_id) if holder == instance else None
                if found is not None:
                    self._lost(*found)
            self.store.forget(instance)
        return count

    def void(self, saga_id: str, slot: Slot, instance: str) -> None:
        """The claim of ``instance`` on ``slot`` is void; a saga that is gone needs nothing."""
        try:
            self.handle(saga_id, ClaimVoided(self.store.now(), slot, instance=instance))
        except SagaExecutionNotFoundException:
            log.info("saga %s is gone, its claim with it", saga_id)

    def _lost(self, saga_id: str, slot: Slot) -> None:
        """A dead boot had the message and had not started it."""
        execution = self.store.load(saga_id)
        if execution is None or execution.slot(slot.step) != slot:
            return
        if execution.steps[slot.step].claim is None:
            self.handle(saga_id, Looked(self.store.now(), MessageState.LOST), execution)

    def _with_outbox(
        self,
        requests: list[Mapping[str, Any]],
        write: Callable[..., T],
        patience: float = 0.0,
    ) -> tuple[T, list[Mapping[str, Any]]]:
        """Write, with the messages if the store can send them; and what is left to be sent."""
        outbox = self.dispatcher.outbox(requests) if requests else None
        if outbox is None:
            return patiently(write, patience), requests
        try:
            return patiently(partial(write, outbox=outbox), patience), []
        except OutboxRefused:
            self.dispatcher.outbox_failed()
            return patiently(write, patience), requests
        except StoreUnavailable:
            self.dispatcher.outbox_failed()
            raise

    def _requests(self, execution: SagaExecution, commands: Any) -> list[Mapping[str, Any]]:
        """Requests are built before the save, so that what cannot be sent is found before it."""
        dispatches = [command for command in commands if isinstance(command, Dispatch)]
        return [self.dispatcher.request(execution, command) for command in dispatches]

    def _carry_out(
        self, execution: SagaExecution, commands: Any, requests: list[Mapping[str, Any]]
    ) -> None:
        for request in requests:
            try:
                self.dispatcher.publish(request)
            except Exception:
                # The checkpoint stands. Raising would turn a finished step into a failed task.
                log.warning(
                    "saga %s: sending failed, the sweep will repeat it",
                    execution.saga_id,
                    exc_info=True,
                    extra={"saga_id": execution.saga_id, "saga_name": execution.name},
                )
        for command in commands:
            if isinstance(command, Announce):
                self.dispatcher.announce(execution)
            elif isinstance(command, Alert):
                self.dispatcher.alert(execution, command)
