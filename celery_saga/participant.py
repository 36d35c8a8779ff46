"""The wrapper round a user's task: claim, run, report.

Nothing that goes wrong in reporting may turn a finished step into a failed task, and nothing is
published from here: a report goes through the orchestrator like any other event.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from datetime import datetime, timezone
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task
from celery.exceptions import Ignore, Reject, Retry, WorkerTerminate
from celery.platforms import EX_FAILURE

from celery_saga import info
from celery_saga.context import SagaContext
from celery_saga.decide.events import Event, StepFailed, StepReleased, StepSucceeded
from celery_saga.decide.moves import call_of
from celery_saga.dispatch import HEADER
from celery_saga.errors import AbortSaga, BadStepResult, StoreUnavailable
from celery_saga.execution import Claim, Direction, Failure, SagaExecution, Slot
from celery_saga.partial import NotLoaded
from celery_saga.plan import PlanStep
from celery_saga.reports import cut_short
from celery_saga.runtime import Runtime
from celery_saga.stores import Refused
from celery_saga.values import Values, values_of

log = logging.getLogger("celery_saga")

#: After these the effect may have happened although the body raised.
_EFFECT_POSSIBLE = (SoftTimeLimitExceeded, MemoryError)

#: Characters of an error's text that are kept.
FAILURE_TEXT = 2000


def delivery_of(request: Any) -> tuple[str, Slot] | None:
    """Saga id and slot if ``request`` is the delivery of a step; ``None`` for any other call."""
    headers = request.headers
    if not headers or not isinstance(headers.get(HEADER), dict):
        return None
    return Slot.parse(request.id)


def run_step(
    runtime: Runtime,
    task: Task[Any, Any],
    body: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    claim: Claim | None = None,
) -> Any:
    """Run one delivery of a step; returns what the body returned.

    Args:
        claim: one that is held already; otherwise it is taken here, before the body runs.

    Raises:
        Ignore: the delivery is stale or a duplicate, the body was not run.
        Reject: the store is away; the delivery goes back to the broker.
    """
    request = task.request
    saga_id, slot = Slot.parse(request.id or "") or ("", Slot(0, Direction.FORWARD, 0))
    if claim is None:
        claim = Claim(runtime.token(slot), runtime.instance, request.retries or 0)
    try:
        plan = (request.headers or {}).get(HEADER, {}).get("plan")
        execution = runtime.orchestrator.claim(saga_id, slot, claim, plan)
    except StoreUnavailable as error:
        raise Reject(error, requeue=True) from error
    if isinstance(execution, Refused):
        log.info("saga %s: %s delivery of %s dropped", saga_id, execution.reason, slot)
        raise Ignore(f"saga {saga_id}: {execution.reason} delivery of {slot}")
    return _Delivery(runtime, task, execution, slot, claim).run(body, args, kwargs)


class _Delivery:
    """One claimed delivery."""

    def __init__(
        self,
        runtime: Runtime,
        task: Task[Any, Any],
        execution: SagaExecution,
        slot: Slot,
        claim: Claim,
    ) -> None:
        self._runtime, self._task, self._execution = runtime, task, execution
        self._slot, self._claim = slot, claim
        self._call = call_of(execution, slot.step, slot.direction)
        self._step: PlanStep = execution.plan.steps[slot.step]
        self._context: SagaContext | None = None

    def run(self, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._call.style == "context":
            # The checkpoint is the truth: the copy that travelled is not looked at.
            self._context = self._execution.context
            args = (self._context, *args[1:])
        try:
            with self._known():
                result = _finished(body(*args, **kwargs))
        except Retry as error:
            lost = isinstance(error.exc, _EFFECT_POSSIBLE)
            retries = (self._task.request.retries or 0) + 1
            self._release(_expected_at(error, self._now()), retries, lost)
            raise
        except Reject as error:
            if error.requeue:  # type: ignore[attr-defined]
                self._release(self._now(), self._task.request.retries or 0)
            else:
                self._fail(error)
            raise
        except Exception as error:
            if cut_short():  # whoever notices the worker's end decides: the outcome is unknown
                raise WorkerTerminate(EX_FAILURE) from error
            self._fail(error)
            raise
        self._succeed(result)
        return result

    @contextmanager
    def _known(self) -> Iterator[None]:
        """``saga_info()`` answers inside."""
        step, slot = self._execution.steps[self._slot.step], self._slot
        forward = slot.direction is Direction.FORWARD
        token = info.current.set(
            info.SagaInfo(
                saga_id=self._execution.saga_id,
                saga_name=self._execution.name,
                step=step.name,
                direction=slot.direction.value,
                attempt=1 + (self._task.request.retries or 0) + step.attempts + step.lost,
                round=step.round if forward else step.undo_round,
                idempotency_key=self._execution.idempotency_key(slot.step, slot.direction),
                forward_key=self._execution.idempotency_key(slot.step, Direction.FORWARD),
            )
        )
        try:
            yield
        finally:
            info.current.reset(token)

    def _now(self) -> float:
        return self._runtime.store.now()

    def _succeed(self, result: Any) -> None:
        try:
            update, remove = self._changes(result)
            self._check_size(update, remove)
        except Exception as error:
            # The body ran: its effect is there, and only its answer cannot be used.
            self._fail(error, effect=True)
            raise
        self._report(
            StepSucceeded(self._now(), self._slot, self._claim.token, update, tuple(remove))
        )

    def _changes(self, result: Any) -> tuple[Mapping[str, Any], list[str]]:
        """What the result does to the context: new values, and keys that are gone."""
        if self._context is not None:
            return self._context_changes(result)
        # Refuses now what could not be saved later, and keeps nothing of the task's own objects.
        return Values(texts=Values(self._merged(result)).texts()), []

    def _check_size(self, update: Mapping[str, Any], remove: Collection[str]) -> None:
        limit, values = self._runtime.context_limit, values_of(self._execution.values)
        if limit is None or values.size + values_of(update).size <= limit:
            return  # whatever it replaces
        try:
            values.changed(update, remove).check_size(limit)
        except NotLoaded:
            # Close to the limit: what the update replaces has to be known.
            found = self._runtime.orchestrator.load(self._execution.saga_id)
            values_of(found.values).changed(update, remove).check_size(limit)

    def _merged(self, result: Any) -> dict[str, Any]:
        returns = self._call.returns
        if isinstance(returns, str):
            return {returns: result}
        if returns is False or result is None or self._slot.direction is Direction.BACKWARD:
            return {}
        if isinstance(result, Mapping):
            return dict(result)
        return {self._step.name: result}

    def _context_changes(self, result: Any) -> tuple[Mapping[str, Any], list[str]]:
        if result is None or result is True:
            result = self._context
        if not isinstance(result, Mapping):
            raise BadStepResult(
                self._step.name,
                "a SagaContext, a mapping, None or True",
                f"{type(result).__name__} from task {self._call.task!r}",
            )
        after = Values(texts=Values(result).texts())
        texts, _, gone = after.since(values_of(self._execution.values))
        return Values(texts=texts), gone

    def _fail(self, error: BaseException, effect: bool = False) -> None:
        name = type(error)
        failure = Failure(
            f"{name.__module__}.{name.__qualname__}", str(error)[:FAILURE_TEXT], self._step.name
        )
        possible = effect or isinstance(error, _EFFECT_POSSIBLE) or self._compensated_on(error)
        self._report(
            StepFailed(
                self._now(),
                self._slot,
                failure,
                token=self._claim.token,
                effect=possible,
                final=isinstance(error, AbortSaga),
            )
        )

    def _compensated_on(self, error: BaseException) -> bool:
        wanted = self._step.compensate_on_failure
        if isinstance(wanted, bool):
            return wanted
        names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}
        return not names.isdisjoint(wanted)

    def _release(self, expected_at: float, retries: int, lost: bool = False) -> None:
        event = StepReleased(
            self._now(), self._slot, self._claim.token, retries, expected_at, lost=lost
        )
        self._report(event)

    def _report(self, event: Event) -> None:
        saga_id, orchestrator = self._execution.saga_id, self._runtime.orchestrator
        try:
            _, changed = orchestrator.change(
                saga_id, event, self._execution, patience=orchestrator.patience
            )
        except StoreUnavailable as error:
            # Nobody else knows the outcome. The claim goes void with this delivery, and the step
            # counts as unknown.
            raise Reject(error, requeue=True) from error
        if not changed:
            log.warning("saga %s: the report of %s came too late", saga_id, self._slot)


def _finished(result: Any) -> Any:
    """The result; that of a coroutine function is awaited here."""
    if not inspect.isawaitable(result):
        return result
    context, coroutine = copy_context(), _awaited(result)

    def run() -> Any:
        return context.run(asyncio.run, coroutine)

    if not _loop_is_running():
        return run()
    # A greenlet pool, whose greenlets share one thread, or an eager call from asynchronous code.
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return sys.modules["gevent"].get_hub().threadpool.apply(run)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _awaited(result: Any) -> Any:
    return await result


def _expected_at(error: Retry, now: float) -> float:
    """When Celery's retry can be expected, store time."""
    when = error.when
    if isinstance(when, datetime):
        aware = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return now + (aware - datetime.now(timezone.utc)).total_seconds()
    return now + float(when or 0)
