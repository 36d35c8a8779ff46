"""The shell of the state machine: claim or load, decide, save, send. It does not depend on Celery.

A crash before the save changes nothing. After a crash behind it, the sweep checks the saga and
applies its own event in the same way. Every change takes this path.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from celery_saga.core import retry
from celery_saga.core.background import BackgroundJobs
from celery_saga.core.context.data import encoded
from celery_saga.core.context.lazy import NotLoaded
from celery_saga.core.decide import decide
from celery_saga.core.decide.observed import alerted, claimed_by, fields_of, transitions
from celery_saga.core.events import (
    Alert,
    Command,
    Decision,
    Dispatch,
    Event,
    NotifyCallers,
    RequestSent,
    ResultStored,
    Started,
    StepFailed,
    Transition,
)
from celery_saga.core.execution import Claim, SagaExecution, SagaStatus, StepRef
from celery_saga.core.failures import recorded, text_of
from celery_saga.core.plan import Plan
from celery_saga.core.ports import (
    Envelope,
    Message,
    Observer,
    Publisher,
    Refused,
    ResultPublisher,
    Store,
)
from celery_saga.errors import (
    PublishRefused,
    SagaExecutionNotFoundException,
    StoreUnavailable,
    UnsendableStep,
)

log = logging.getLogger("celery_saga")

T = TypeVar("T")

#: The reference of a step, and its message.
Unsent = tuple[StepRef, Message]

FollowUp = tuple[Event, SagaExecution]  #: what results from sending, and the saga at that time


class Applied(NamedTuple):
    """The saga after an event, and whether the event changed it."""

    execution: SagaExecution
    changed: bool


@dataclass(frozen=True)
class _Batch:
    """The envelopes and messages of a save.

    Args:
        alone, messages: what is saved if the store writes no envelopes, and what is then published.
        after, left: the same if it writes ``carried`` in the same transaction.
    """

    alone: SagaExecution
    messages: Sequence[Unsent]
    after: SagaExecution
    left: Sequence[Unsent]
    carried: tuple[Envelope, ...]


class _Saved(NamedTuple):
    """A saved change, and what is to be sent for it."""

    execution: SagaExecution
    commands: Sequence[Command] = ()
    left: Sequence[Unsent] = ()
    before: SagaExecution | None = None
    changed: bool = True


class Orchestrator:
    """Applies events to the state machine and carries out its commands.

    Args:
        store: keeps the executions.
        publisher: sends the steps.
        results: stores the results of settled sagas, and notifies callers.
        store_timeout: seconds for which a call of an unavailable store is retried, where the event
            would be lost otherwise.
        background_jobs: stores the results, for threads that must not wait for a backend.
        observer: is notified of transitions and alerts.
        pause: waits for the given seconds.
    """

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        results: ResultPublisher,
        store_timeout: float = 60.0,
        background_jobs: BackgroundJobs | None = None,
        observer: Observer | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.store = store
        self.publisher, self.results = publisher, results
        self.store_timeout = store_timeout
        self._jobs, self._observer = background_jobs, observer
        self._pause = pause

    def start(
        self,
        plan: Plan,
        saga_id: str,
        values: Mapping[str, Any],
        *,
        token: str,
        countdown: float | None = None,
        deadline: float | None = None,
        replaces: SagaExecution | None = None,
        **fields: Any,
    ) -> tuple[SagaExecution, bool]:
        """Create a saga and send its first step; or return the one that has the id, and False.

        Args:
            token: unique to this call.
            countdown: seconds until the first step is sent.
            deadline: seconds after which the saga is rolled back unless it is past its pivot.
            replaces: the execution in whose place it is started, if that is still the newest.
            fields: of the new execution: ``wants_result``, ``callbacks``, ``headers``, ...
        """
        at, values = self.store.now(), encoded(values)  # refuses values that could not be saved
        until = None if deadline is None else at + deadline
        execution = SagaExecution.create(saga_id, plan, values, at=at, deadline=until)
        execution, first = self.publisher.first_message(replace(execution, **fields))
        not_before = None if countdown is None else at + countdown
        decision = decide(execution, Started(at, not_before))
        batch = self._batch(decision, first if plan.linear else None)
        write = partial(self.store.create, token=token, replaces=replaces)
        (saved, created), left = self._write(write, batch)
        if created:
            saved = self._send(_Saved(saved, decision.commands, left))
        return saved, created

    def load(self, saga_id: str, context: bool = True) -> SagaExecution:
        """Return the execution; ``context``: whether the context is required too.

        Raises:
            SagaExecutionNotFoundException: no saga has this id.
        """
        found = self.store.load(saga_id, context=context)
        if found is None:
            raise SagaExecutionNotFoundException(saga_id)
        return found

    def claim(
        self, saga_id: str, ref: StepRef, claim: Claim, plan: str | None = None, run_id: str = ""
    ) -> SagaExecution | Refused:
        """Claim a ref before its body runs, and retry while the store is unavailable."""
        take = partial(self.store.claim, saga_id, ref, claim, plan, run_id)
        taken = retry.retry_while_unavailable(take, timeout=self.store_timeout)
        if isinstance(taken, SagaExecution):
            self._observe(lambda: [claimed_by(taken, ref)], detail=True)
        return taken

    def apply(
        self,
        saga_id: str,
        event: Event,
        known: SagaExecution | None = None,
        *,
        timeout: float = 0.0,
        run_id: str | None = None,
    ) -> Applied:
        """Apply ``event``: decide, save with the envelopes that the store writes, send the rest.

        Events that result from sending (a message that can never be sent, a result that is stored)
        are applied in turn, one after the other.

        Args:
            known: avoids loading the saga if it is still the newest.
            timeout: seconds for which a call of an unavailable store is retried.
            run_id: the run id of the saga, if the event names one.

        Raises:
            SagaError: the decision refuses a request.
            SagaExecutionNotFoundException: the saga does not exist any more.
            StoreUnavailable: also if others changed the saga at each of many attempts.
        """
        saved = self._change(saga_id, event, known, timeout, run_id)
        return Applied(self._send(saved), saved.changed)

    def _change(
        self,
        saga_id: str,
        event: Event,
        known: SagaExecution | None = None,
        timeout: float = 0.0,
        run_id: str | None = None,
    ) -> _Saved:
        """Decide and save, until the revision that was read is still the newest at the save."""
        execution = known or self._newest(saga_id, run_id, timeout)
        for pause in retry.pauses_after_conflicts(timeout):
            try:
                decision = decide(execution, event)
                batch = self._batch(decision)
            except NotLoaded:
                execution = self._newest(saga_id, execution.run_id, timeout)
                continue
            if decision.refusal is not None:
                raise decision.refusal
            if decision.execution is execution:
                return _Saved(execution, changed=False)
            write = partial(self.store.save, execution, token=secrets.token_hex(8))
            saved, left = self._write(write, batch, timeout)
            if saved is not None:
                return _Saved(saved, decision.commands, left, execution)
            if pause:
                self._pause(pause)
            execution = self._newest(saga_id, execution.run_id, timeout)
        text = f"others saved saga {saga_id} first, at each attempt of {type(event).__name__}"
        raise retry.SavedByOthers(f"{text}; the sweep continues it")

    def _newest(self, saga_id: str, run_id: str | None, timeout: float) -> SagaExecution:
        """Load the saga, unless another one has its id now."""
        found = retry.retry_while_unavailable(partial(self.load, saga_id), timeout)
        if run_id is not None and found.run_id != run_id:
            raise SagaExecutionNotFoundException(saga_id)
        return found

    def _batch(self, decision: Decision, first: Message | None = None) -> _Batch:
        """Encode the messages of a decision before the save, and the result if possible.

        If the store writes the result, the saved execution says that it is stored. ``first`` is
        the message of a start, if it is made already.
        """
        after, message = decision.execution, self.publisher.message
        sent = [each for each in decision.commands if isinstance(each, Dispatch)]
        batch = self._carried(after, [(each.ref, first or message(after, each)) for each in sent])
        ends = any(isinstance(each, NotifyCallers) and not each.again for each in decision.commands)
        if not ends or not after.result_pending or after.callbacks is not None:
            return batch
        result = self.results.encode(after)
        if result is None or not self._carries(result):
            return batch
        stored = decide(after, ResultStored(after.updated_at, after.status)).execution
        return replace(batch, after=stored, carried=(*batch.carried, result))

    def _carried(self, alone: SagaExecution, messages: Sequence[Unsent]) -> _Batch:
        carried, left, after = [], [], alone
        for unsent in messages:
            envelope = self.publisher.encode(unsent[1])
            if envelope is not None and self._carries(envelope):
                carried.append(envelope)
                after = decide(after, RequestSent(after.updated_at, unsent[0])).execution
            else:
                left.append(unsent)
        return _Batch(alone, messages, after, left, tuple(carried))

    def _carries(self, envelope: Envelope) -> bool:
        return bool(self.store.endpoint) and envelope.endpoint == self.store.endpoint

    def _write(
        self, write: Callable[..., T], batch: _Batch, timeout: float = 0.0
    ) -> tuple[T, Sequence[Unsent]]:
        """Write, with the batch if the server accepts it; returns also what must be published."""
        retried = partial(retry.retry_while_unavailable, timeout=timeout)
        if batch.carried:
            try:
                return retried(partial(write, batch.after, batch=batch.carried)), batch.left
            except (PublishRefused, StoreUnavailable) as error:
                self.publisher.reconsider()
                if isinstance(error, StoreUnavailable):
                    raise
        return retried(partial(write, batch.alone)), batch.messages

    def _send(self, saved: _Saved) -> SagaExecution:
        """Send what the store did not write, then apply the resulting events one after the other.

        The checkpoint is saved: an error is logged, and the sweep repeats the sending.
        """
        execution, events = saved.execution, deque(self._sent(saved))
        while events:
            try:
                saved = self._change(execution.saga_id, *events.popleft())
            except Exception as error:
                _warn(execution, "the outcome of sending could not be saved", error)
                continue
            execution = saved.execution
            events += self._sent(saved)
        return execution

    def _sent(self, saved: _Saved) -> Iterator[FollowUp]:
        """Publish, store the result, alert; yields the events that result from it."""
        execution, commands = saved.execution, saved.commands
        if saved.changed:
            settles = any(isinstance(each, NotifyCallers) and not each.again for each in commands)
            found = partial(transitions, saved.before, execution, settles)
            if settles and execution.status is not SagaStatus.COMPLETED:
                execution = self._whole(execution)  # any of its steps may block it
            self._observe(lambda: [it._replace(execution=execution) for it in found()], not settles)
        for command in commands:
            if isinstance(command, NotifyCallers):
                yield from self._end(execution)
            elif isinstance(command, Alert):
                self.alert(execution, command)
        for ref, message in saved.left:
            yield from self._publish(execution, ref, message)

    def _whole(self, execution: SagaExecution) -> SagaExecution:
        """Return the whole execution, if it can be loaded now."""
        try:
            return execution if execution.whole else self.load(execution.saga_id)
        except Exception as error:
            return _warn(execution, "its end could not be read", error)

    def alert(self, execution: SagaExecution, alert: Alert, ref: StepRef | None = None) -> None:
        """Notify the observers of an alert for operators; ``ref``: of the step concerned."""
        self._observe(lambda: [alerted(execution, alert, ref)])

    def _observe(self, find: Callable[[], Iterable[Transition]], detail: bool = False) -> None:
        """Notify the observer after the save; its errors must not make a finished step fail."""
        try:
            if self._observer is not None and (self._observer.details or not detail):
                for transition in find():
                    self._observer.observe(transition)
        except Exception:
            log.warning("an observer of sagas failed", exc_info=True)

    def _end(self, execution: SagaExecution) -> Iterator[FollowUp]:
        """Publish the result of a settled saga, in the background if there are such jobs."""
        if self._jobs is None or not execution.result_pending:
            yield from self._publish_result(execution)
        else:
            self._jobs(execution.saga_id, partial(self._publish_in_background, execution.saga_id))

    def _publish_in_background(self, saga_id: str) -> None:
        for event, known in self._publish_result(self.load(saga_id)):
            self._send(self._change(saga_id, event, known))

    def _publish_result(self, execution: SagaExecution) -> Iterator[FollowUp]:
        try:
            if execution.result_pending and not execution.whole:
                execution = self.load(execution.saga_id)
            if not execution.result_pending:
                return
            self.results.publish(execution)
            stuck = execution.stuck_count if execution.status is SagaStatus.STUCK else None
            stored = ResultStored(self.store.now(), execution.status, stuck)
        except Exception as error:
            _warn(execution, "its result could not be published", error)
            return
        yield stored, execution

    def _publish(
        self, execution: SagaExecution, ref: StepRef, message: Message
    ) -> Iterator[FollowUp]:
        try:
            self.publisher.publish(message)
        except UnsendableStep as error:
            text, extra = "saga %s: %s", fields_of(execution, ref)
            log.error(text, execution.saga_id, error, exc_info=True, extra=extra)
            failure = recorded(error, error.step)
            yield StepFailed(execution.updated_at, ref, failure, final=True), execution
        except Exception as error:
            _warn(execution, "sending failed", error, ref)
        else:
            if execution.steps[ref.path].open_request is not None:
                yield RequestSent(execution.updated_at, ref), execution


def _warn(
    execution: SagaExecution, what: str, error: Exception, ref: StepRef | None = None
) -> SagaExecution:
    text, saga_id = f"saga %s: {what}, the sweep will repeat it", execution.saga_id
    extra = fields_of(execution, ref)
    try:
        log.warning(text, saga_id, exc_info=error, extra=extra)
    except Exception:  # an eager step's own exception may be one that Python cannot print
        log.warning(f"{text}: %s", saga_id, text_of(error), extra=extra)
    return execution
