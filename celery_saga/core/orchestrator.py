"""The shell round the state machine: claim or load, decide, save, send. Knows no Celery.

Crash before the save: nothing happened. Crash after it: the sweep looks at the saga and comes
through the same door with its own event. There is no second path.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from celery_saga.core.background import Errands
from celery_saga.core.context.data import encoded, is_whole
from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.decide import decide
from celery_saga.core.decide.repair import command_of, obstacle_of, repairs_of
from celery_saga.core.events import (
    Alert,
    Announce,
    Command,
    Decision,
    Dispatch,
    Event,
    ResultStored,
    Started,
    StepFailed,
)
from celery_saga.core.execution import Claim, SagaExecution, SagaStatus, StepRef, evolved
from celery_saga.core.failures import recorded, text_of
from celery_saga.core.plan import Plan
from celery_saga.core.ports import Dispatcher, Outbox, Refused, Store
from celery_saga.core.retry import retry_while_unavailable
from celery_saga.errors import (
    OutboxRefused,
    SagaExecutionNotFoundException,
    StoreUnavailable,
    UnsendableStep,
)

log = logging.getLogger("celery_saga")

T = TypeVar("T")

#: Ends that somebody should hear of.
_LEVELS = {SagaStatus.COMPENSATED: logging.WARNING, SagaStatus.STUCK: logging.ERROR}

#: A ref, and all that is needed to send its step.
Request = tuple[StepRef, Mapping[str, Any]]


class Orchestrator:
    """Feeds events through the state machine and carries out what it decides.

    Args:
        store: keeps the executions.
        dispatcher: sends the steps.
        store_timeout: seconds for which a call of an unavailable store is retried, where nothing
            else could keep the outcome.
        errands: takes over announcements, for those who must not wait for a result backend.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        store_timeout: float = 60.0,
        errands: Errands | None = None,
    ) -> None:
        self.store = store
        self.dispatcher = dispatcher
        self.store_timeout = store_timeout
        self._errands = errands

    def start(
        self,
        plan: Plan,
        saga_id: str,
        values: Mapping[str, Any],
        *,
        token: str,
        countdown: float | None = None,
        deadline: float | None = None,
        **fields: Any,
    ) -> tuple[SagaExecution, bool]:
        """Create a saga and send its first step; or give back the one that has the id.

        Args:
            token: unique to this call.
            countdown: seconds until the first step is sent.
            deadline: seconds after which the way forward is given up.
            fields: of the new execution: ``wants_result``, ``origin``, ``headers``, ``run``,
                ``opened_with``, ``root_id``, ``parent_id``.

        Returns:
            The execution and whether this call created it.
        """
        at, values = self.store.now(), encoded(values)  # refuses what could not be saved
        until = None if deadline is None else at + deadline
        execution = SagaExecution.create(saga_id, plan, values, at=at, deadline=until)
        execution, first = self.dispatcher.opening(evolved(execution, **fields))
        not_before = None if countdown is None else at + countdown
        decision = decide(execution, Started(at, not_before))
        requests = [(it.ref, first) for it in decision.commands if isinstance(it, Dispatch)]
        write = partial(self.store.create, token=token)
        (saved, created), left = self._with_outbox(decision.execution, requests, None, write)
        if created:
            saved = self._carry_out(saved, decision.commands, left)
        return saved, created

    def load(self, saga_id: str, context: bool = True) -> SagaExecution:
        """The execution; ``context``: whether that is wanted too.

        Raises:
            SagaExecutionNotFoundException: there is none.
        """
        found = self.store.load(saga_id, context=context)
        if found is None:
            raise SagaExecutionNotFoundException(saga_id)
        return found

    def claim(
        self, saga_id: str, ref: StepRef, claim: Claim, plan: str | None = None, run: str = ""
    ) -> SagaExecution | Refused:
        """Take a ref before its body runs, waiting out a store that is away."""
        take = partial(self.store.claim, saga_id, ref, claim, plan, run)
        return retry_while_unavailable(take, timeout=self.store_timeout)

    def handle(
        self,
        saga_id: str,
        event: Event,
        known: SagaExecution | None = None,
        *,
        timeout: float = 0.0,
    ) -> SagaExecution:
        """Let ``event`` have its effect; ``known`` saves a load if it is still the newest.

        Args:
            timeout: seconds for which a call of an unavailable store is retried.

        Raises:
            SagaError: the decision's refusal of a request.
            SagaExecutionNotFoundException: the saga is gone.
        """
        return self.change(saga_id, event, known, timeout=timeout)[0]

    def change(
        self,
        saga_id: str,
        event: Event,
        known: SagaExecution | None = None,
        *,
        timeout: float = 0.0,
        run: str | None = None,
    ) -> tuple[SagaExecution, bool]:
        """As :meth:`handle`; and whether it was this call that changed the saga.

        Args:
            run: that of the saga, if the event names one.
        """
        retried = partial(retry_while_unavailable, timeout=timeout)
        execution = known or retried(partial(self._of_run, saga_id, run))
        newest = partial(self._of_run, saga_id, execution.run)
        while True:
            try:
                decision = decide(execution, event)
                requests, told = self._requests(decision), self._told(decision)
            except NotLoaded:
                execution = retried(newest)
                continue
            if decision.refusal is not None:
                raise decision.refusal
            if decision.execution is execution:
                return execution, False
            write = partial(self.store.save, execution, token=secrets.token_hex(8))
            saved, left = self._with_outbox(decision.execution, requests, told, write, timeout)
            if saved is not None:
                return self._carry_out(saved, decision.commands, left), True
            execution = retried(newest)

    def _of_run(self, saga_id: str, run: str | None) -> SagaExecution:
        """The saga, unless it is gone and another one has its id."""
        found = self.load(saga_id)
        if run is not None and found.run != run:
            raise SagaExecutionNotFoundException(saga_id)
        return found

    def _with_outbox(
        self,
        after: SagaExecution,
        requests: list[Request],
        told: Outbox | None,
        write: Callable[..., T],
        timeout: float = 0.0,
    ) -> tuple[T, list[Request]]:
        """Write, with the messages or result if the store can do both; what is left to be sent."""
        with_it, outbox = after, told
        if told is not None:
            with_it = decide(after, ResultStored(after.updated_at, after.status)).execution
        elif requests:
            outbox = self.dispatcher.outbox([request for _, request in requests])
        if outbox is None:
            return retry_while_unavailable(partial(write, after), timeout), requests
        try:
            return retry_while_unavailable(partial(write, with_it, outbox=outbox), timeout), []
        except OutboxRefused:
            self.dispatcher.outbox_failed()
            return retry_while_unavailable(partial(write, after), timeout), requests
        except StoreUnavailable:
            self.dispatcher.outbox_failed()
            raise

    def _requests(self, decision: Decision) -> list[Request]:
        """Requests are built before the save: what to send is settled when it is saved."""
        return [
            (command.ref, self.dispatcher.request(decision.execution, command))
            for command in decision.commands
            if isinstance(command, Dispatch)
        ]

    def _told(self, decision: Decision) -> Outbox | None:
        """The result of a saga that settles now, if the store can store it; callers come later."""
        after = decision.execution
        ends = any(isinstance(each, Announce) and not each.again for each in decision.commands)
        if not ends or not after.result_pending or after.origin is not None:
            return None
        return self.dispatcher.settlement(after)

    def _carry_out(
        self, execution: SagaExecution, commands: Sequence[Command], left: Sequence[Request]
    ) -> SagaExecution:
        for command in commands:
            if isinstance(command, Announce):
                execution = self._announce(execution, command)
            elif isinstance(command, Alert):
                self.dispatcher.alert(execution, command)
        for ref, request in left:
            execution = self._publish(execution, ref, request)
        return execution

    def _announce(self, execution: SagaExecution, command: Announce) -> SagaExecution:
        if not command.again:
            if execution.status is not SagaStatus.COMPLETED and not is_whole(execution):
                execution = self.load(execution.saga_id)  # what holds it up is in any of its steps
            _log_end(execution)
        if self._errands is None or not execution.result_pending:
            return self._tell(execution)
        saga_id = execution.saga_id
        self._errands(saga_id, lambda: self._tell(self.load(saga_id)))
        return execution

    def _tell(self, execution: SagaExecution) -> SagaExecution:
        """The end stands: what goes wrong with telling it is logged, and the sweep repeats it."""
        saga_id = execution.saga_id
        try:
            if execution.result_pending and not is_whole(execution):
                execution = self.load(saga_id)
            if not execution.result_pending:
                return execution
            self.dispatcher.announce(execution)
            status = execution.status
            stuck = execution.stuck_count if status is SagaStatus.STUCK else None
            stored = ResultStored(self.store.now(), status, stuck)
            return self.handle(saga_id, stored, execution)
        except Exception:
            text = "saga %s: its end could not be told, the sweep will repeat it"
            log.warning(text, saga_id, exc_info=True, extra={"saga_id": saga_id})
            return execution

    def _publish(
        self, execution: SagaExecution, ref: StepRef, request: Mapping[str, Any]
    ) -> SagaExecution:
        """The checkpoint stands: raising would turn a finished step into a failed task."""
        extra = {"saga_id": execution.saga_id, "saga_name": execution.name}
        try:
            self.dispatcher.publish(request)
        except UnsendableStep as error:
            log.error("saga %s: %s", execution.saga_id, error, exc_info=True, extra=extra)
            failure = recorded(error, error.step)
            event = StepFailed(self.store.now(), ref, failure, final=True)
            return self.handle(execution.saga_id, event, execution)
        except Exception as error:
            text, saga_id = "saga %s: sending failed, the sweep will repeat it", execution.saga_id
            try:
                log.warning(text, saga_id, exc_info=True, extra=extra)
            except Exception:  # an eager step's own exception may be one that Python cannot print
                log.warning(f"{text}: %s", saga_id, text_of(error), extra=extra)
        return execution


def _log_end(execution: SagaExecution) -> None:
    saga_id, name, status = execution.saga_id, execution.name, execution.status
    extra = {"saga_id": saga_id, "saga_name": name, "saga_status": status.value}
    obstacle = obstacle_of(execution) if status in _LEVELS else None
    if obstacle is None:
        log.info("saga %s %s: %s", name, saga_id, status.value, extra=extra)
        return
    where = f" at step {obstacle.step!r}" if obstacle.step else ""
    text, extra["saga_step"] = f"{status.value}{where}: {obstacle.cause}", obstacle.step
    verbs = list(dict.fromkeys(verb.split()[0] for verb, _ in repairs_of(execution)))
    if verbs:
        text += f"; repair: {command_of(verbs[0], saga_id)} (or {', '.join(verbs[1:])})"
    log.log(_LEVELS[status], "saga %s %s: %s", name, saga_id, text, extra=extra)
