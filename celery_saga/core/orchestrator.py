"""The shell round the state machine: claim or load, decide, save, send. Knows no Celery.

Crash before the save: nothing happened. Crash after it: the sweep looks at the saga and comes
through the same door with its own event. There is no second path.
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
from celery_saga.core.context.data import encoded, is_whole
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


#: An event that comes of sending, and the saga to which it happened.
FollowUp = tuple[Event, SagaExecution]


class Applied(NamedTuple):
    """What became of an event: the saga after it, and whether it was this event that changed it."""

    execution: SagaExecution
    changed: bool


@dataclass(frozen=True)
class _Batch:
    """What is to be sent with and after a save.

    Args:
        alone, messages: what is saved if the store carries nothing, and what is published then.
        after, left: the same if it carries ``carried`` in the same transaction.
    """

    alone: SagaExecution
    messages: Sequence[Unsent]
    after: SagaExecution
    left: Sequence[Unsent]
    carried: tuple[Envelope, ...]


class _Saved(NamedTuple):
    """A change that was saved, and what is to be sent for it."""

    execution: SagaExecution
    commands: Sequence[Command] = ()
    left: Sequence[Unsent] = ()
    before: SagaExecution | None = None
    changed: bool = True


class Orchestrator:
    """Feeds events through the state machine and carries out what it decides.

    Args:
        store: keeps the executions.
        publisher: sends the steps.
        results: stores the results of settled sagas, and notifies callers.
        store_timeout: seconds for which a call of an unavailable store is retried, where nothing
            else could keep what happened.
        background_jobs: takes over the results, for threads that must not wait for a backend.
        observer: is told what was done.
        pause: waits for so many seconds.
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
        **fields: Any,
    ) -> tuple[SagaExecution, bool]:
        """Create a saga and send its first step; or give back the one that has the id.

        Args:
            token: unique to this call.
            countdown: seconds until the first step is sent.
            deadline: seconds after which the way forward is given up.
            fields: of the new execution: ``wants_result``, ``callbacks``, ``headers``, ``run_id``,
                ``opened_with``, ``root_id``, ``parent_id``.

        Returns: the execution, and whether this call created it.
        """
        at, values = self.store.now(), encoded(values)  # refuses what could not be saved
        until = None if deadline is None else at + deadline
        execution = SagaExecution.create(saga_id, plan, values, at=at, deadline=until)
        execution, first = self.publisher.first_message(replace(execution, **fields))
        not_before = None if countdown is None else at + countdown
        decision = decide(execution, Started(at, not_before))
        messages = [(it.ref, first) for it in decision.commands if isinstance(it, Dispatch)]
        batch = self._carried(decision.execution, messages)
        write = partial(self.store.create, token=token)
        (saved, created), left = self._write(write, batch)
        if created:
            saved = self._send(_Saved(saved, decision.commands, left))
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
        self, saga_id: str, ref: StepRef, claim: Claim, plan: str | None = None, run_id: str = ""
    ) -> SagaExecution | Refused:
        """Take a ref before its body runs, waiting out a store that is unavailable."""
        take = partial(self.store.claim, saga_id, ref, claim, plan, run_id)
        taken = retry.retry_while_unavailable(take, timeout=self.store_timeout)
        if isinstance(taken, SagaExecution):
            self._observe(lambda: [claimed_by(taken, ref)])
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
        """Let ``event`` have its effect: decide, save with what the store carries, send the rest.

        What comes of the sending (a message that can never be sent, a result that is stored) is
        applied in turn, one event after the other.

        Args:
            known: saves a load if it is still the newest.
            timeout: seconds for which a call of an unavailable store is retried.
            run_id: that of the saga, if the event names one.

        Raises:
            SagaError: the decision's refusal of a request.
            SagaExecutionNotFoundException: the saga is gone.
            StoreUnavailable: also where others changed the saga at each of many tries.
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
        """Decide and save, until the revision that was read still stands."""
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
        what = type(event).__name__
        text = f"others saved saga {saga_id} first, each time that {what} was tried"
        raise retry.SavedByOthers(f"{text}; the sweep goes on with it")

    def _newest(self, saga_id: str, run_id: str | None, timeout: float) -> SagaExecution:
        """The saga, unless it is gone and another one has its id."""
        found = retry.retry_while_unavailable(partial(self.load, saga_id), timeout)
        if run_id is not None and found.run_id != run_id:
            raise SagaExecutionNotFoundException(saga_id)
        return found

    def _batch(self, decision: Decision) -> _Batch:
        """What is to be sent, which is settled when it is saved: messages, and perhaps a result.

        If the store carries the result, what is saved says that it is stored.
        """
        after, message = decision.execution, self.publisher.message
        sent = [each for each in decision.commands if isinstance(each, Dispatch)]
        batch = self._carried(after, [(each.ref, message(after, each)) for each in sent])
        ends = any(isinstance(each, NotifyCallers) and not each.again for each in decision.commands)
        if not ends or not after.result_pending or after.callbacks is not None:
            return batch
        result = self.results.encode(after)
        if result is None or not self._carries(result):
            return batch
        stored = decide(after, ResultStored(after.updated_at, after.status)).execution
        return replace(batch, after=stored, carried=(*batch.carried, result))

    def _carried(self, after: SagaExecution, messages: Sequence[Unsent]) -> _Batch:
        carried, left = [], []
        for unsent in messages:
            envelope = self.publisher.encode(unsent[1])
            if envelope is not None and self._carries(envelope):
                carried.append(envelope)
            else:
                left.append(unsent)
        return _Batch(after, messages, after, left, tuple(carried))

    def _carries(self, envelope: Envelope) -> bool:
        endpoint = self.store.endpoint
        return bool(endpoint) and envelope.endpoint == endpoint

    def _write(
        self, write: Callable[..., T], batch: _Batch, timeout: float = 0.0
    ) -> tuple[T, Sequence[Unsent]]:
        """Write, with the batch if the server takes it; and what is left to be published."""
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
        """Send what the store did not carry, then apply what came of it, one after the other.

        The checkpoint stands: what goes wrong is logged, and the sweep repeats it.
        """
        execution, events = saved.execution, deque(self._sent(saved))
        while events:
            event, known = events.popleft()
            try:
                saved = self._change(execution.saga_id, event, known)
            except Exception as error:
                _warn(execution, "what came of sending could not be saved", error)
                continue
            execution = saved.execution
            events += self._sent(saved)
        return execution

    def _sent(self, saved: _Saved) -> Iterator[FollowUp]:
        """Publish, store the result, alert; the events that come of it."""
        execution, commands = saved.execution, saved.commands
        if saved.changed:
            settles = any(isinstance(each, NotifyCallers) and not each.again for each in commands)
            found = partial(transitions, saved.before, execution, settles)
            if settles and execution.status is not SagaStatus.COMPLETED:
                execution = self._whole(execution)  # what holds it up is in any of its steps
            self._observe(lambda: [each._replace(execution=execution) for each in found()])
        for command in commands:
            if isinstance(command, NotifyCallers):
                yield from self._end(execution)
            elif isinstance(command, Alert):
                self.alert(execution, command)
        for ref, message in saved.left:
            yield from self._publish(execution, ref, message)

    def _whole(self, execution: SagaExecution) -> SagaExecution:
        """All of a saga, if that can be read now."""
        try:
            return execution if is_whole(execution) else self.load(execution.saga_id)
        except Exception as error:
            return _warn(execution, "its end could not be read", error)

    def alert(self, execution: SagaExecution, alert: Alert, ref: StepRef | None = None) -> None:
        """Tell the observers what an operator should know; ``ref``: of the step concerned."""
        self._observe(lambda: [alerted(execution, alert, ref)])

    def _observe(self, find: Callable[[], Iterable[Transition]]) -> None:
        """It is done: what goes wrong with telling it must not undo a finished step."""
        try:
            for transition in find() if self._observer else ():
                self._observer.observe(transition)  # type: ignore[union-attr]
        except Exception:
            log.warning("an observer of sagas failed", exc_info=True)

    def _end(self, execution: SagaExecution) -> Iterator[FollowUp]:
        """Publish the result of a settled saga, or have that done elsewhere."""
        if self._jobs is None or not execution.result_pending:
            yield from self._publish_result(execution)
        else:
            self._jobs(execution.saga_id, partial(self._publish_later, execution.saga_id))

    def _publish_later(self, saga_id: str) -> None:
        for event, known in self._publish_result(self.load(saga_id)):
            self._send(self._change(saga_id, event, known))

    def _publish_result(self, execution: SagaExecution) -> Iterator[FollowUp]:
        try:
            if execution.result_pending and not is_whole(execution):
                execution = self.load(execution.saga_id)
            if not execution.result_pending:
                return
            self.results.publish(execution)
            status = execution.status
            stuck = execution.stuck_count if status is SagaStatus.STUCK else None
            stored = ResultStored(self.store.now(), status, stuck)
        except Exception as error:
            _warn(execution, "its end could not be told", error)
            return
        yield stored, execution

    def _publish(
        self, execution: SagaExecution, ref: StepRef, message: Message
    ) -> Iterator[FollowUp]:
        try:
            self.publisher.publish(message)
        except UnsendableStep as error:
            extra = fields_of(execution, ref)
            log.error("saga %s: %s", execution.saga_id, error, exc_info=True, extra=extra)
            failure = recorded(error, error.step)
            yield StepFailed(execution.updated_at, ref, failure, final=True), execution
        except Exception as error:
            _warn(execution, "sending failed", error, ref)


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
