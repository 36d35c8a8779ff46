"""What an operator can do with the sagas of an app: list them, and repair them."""

from __future__ import annotations

import getpass
import inspect
import logging
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from celery_saga.core.context.data import encoded, values_of
from celery_saga.core.decide.operators import OfStuckSagas
from celery_saga.core.events import (
    PauseRequested,
    ResolveRequested,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
)
from celery_saga.core.execution import TERMINAL, SagaExecution, SagaStatus
from celery_saga.core.ports import Found, Store
from celery_saga.errors import SagaError, StoreUnavailable, UnreadableCheckpoint
from celery_saga.result import SagaResult
from celery_saga.runtime import Runtime

log = logging.getLogger("celery_saga")

#: A saga, by its id or its handle.
SagaId = str | uuid.UUID | SagaResult

Executions = list[SagaExecution]
Statuses = list[SagaStatus]


#: The verbs that :meth:`Operators.bulk` takes, each with the statuses to which it applies.
BULK: Mapping[str, tuple[SagaStatus, ...]] = {
    "retry": (SagaStatus.STUCK,),
    "skip": (SagaStatus.STUCK,),
    "resolve": (SagaStatus.STUCK,),
    "pause": (SagaStatus.CREATED, SagaStatus.RUNNING, SagaStatus.COMPENSATING),
    "resume": (SagaStatus.PAUSED,),
    "cancel": (SagaStatus.CREATED, SagaStatus.RUNNING, SagaStatus.PAUSED),
    "signal": (SagaStatus.RUNNING, SagaStatus.PAUSED),
}

#: How many sagas one call of it takes.
BULK_LIMIT = 1000


@dataclass(frozen=True)
class BulkResult:
    """What :meth:`Operators.bulk` did.

    Args:
        verb: its name.
        found: ids of the sagas that matched, those first whose status changed last.
        done: of these, the ones for which the verb was carried out; none in a dry run.
        refused: the others, each with the reason; they are unchanged. None in a dry run.
    """

    verb: str
    found: tuple[str, ...]
    done: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


class Operators:
    """Lists sagas, and repairs them; every request adds an entry to the saga's history.

    Each method for one saga returns its handle. All raise :class:`SagaExecutionNotFoundException`
    for an unknown id, and :class:`SagaNotActionable`, which changes nothing, where the request does
    not apply to the saga's status. ``by`` names the operator; by default it is ``user@host``.
    """

    _runtime: Runtime

    def list(
        self,
        status: SagaStatus | str | Iterable[SagaStatus | str] | None = None,
        *,
        saga: str | None = None,
        older_than: float | timedelta | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> Executions:
        """List the sagas of this app, those first whose status changed last.

        Args:
            status: one or several; by default all.
            saga: the saga's name.
            older_than: only those that have had their status for longer: seconds, or a timedelta.
            limit: how many at most.
            offset: how many to leave out before them, for the next page.

        Returns:
            Their executions without their contexts, which ``get(saga_id).context`` reads. A saga
            that cannot be read is left out, with an error in the log.

        Raises:
            ValueError: the status is unknown, or a number is out of range.
        """
        for name, number, least in (("limit", limit, 1), ("offset", offset, 0)):
            if number < least:
                raise ValueError(f"list: {name}: expected {least} or more, found {number!r}")
        store, until = self._runtime.store, None
        if older_than is not None:
            until = store.now() - _seconds(older_than)
        found = [
            (each, known)
            for each in _statuses(status)
            for known in store.find(each, offset + limit, saga, until)
        ]
        found.sort(key=lambda pair: -pair[1].since)
        return _read_all(store, found[offset : offset + limit])

    def counts(self, *, saga: str | None = None) -> dict[SagaStatus, int]:
        """How many sagas of this app (and of that name) are in each status.

        Of those that have ended, some that have expired may still be counted.
        """
        return {each: self._runtime.store.count(each, saga) for each in SagaStatus}

    def retry(
        self, saga_id: SagaId, context: Mapping[str, Any] | None = None, *, by: str | None = None
    ) -> SagaResult:
        """Let a stuck saga retry the step or compensation that blocks it.

        Args:
            context: keys to set before that; they replace those of the context and its results.

        Raises:
            UnserializableValue, ContextTooLarge: the context cannot be stored with these keys.
        """
        handle, update = self._handle(saga_id), encoded(context or {}, self._runtime.codec)
        if update:
            after = handle.execution.with_values(update)
            limit = self._runtime.settings.context_limit
            values_of(after.values).check_size(limit, after.plan.key_of)
        return self._settle(handle, RetryRequested(self._now(), _who(by), update))

    def skip(self, saga_id: SagaId, *, by: str | None = None) -> SagaResult:
        """Continue a stuck saga behind the step that blocks it, which the operator has handled."""
        return self._settle(self._handle(saga_id), SkipRequested(self._now(), _who(by)))

    def resolve(
        self, saga_id: SagaId, status: SagaStatus | str, *, by: str | None = None
    ) -> SagaResult:
        """End a stuck saga, which the operator has settled, with the given status.

        Args:
            status: ``COMPLETED`` or ``COMPENSATED``.
        """
        (found,) = _statuses(status, TERMINAL)
        return self._settle(self._handle(saga_id), ResolveRequested(self._now(), found, _who(by)))

    def pause(self, saga_id: SagaId, *, by: str | None = None) -> SagaResult:
        """Send no further step; a step that was sent already may end."""
        return self._ask(self._handle(saga_id), PauseRequested(self._now(), _who(by)))

    def resume(self, saga_id: SagaId, *, by: str | None = None) -> SagaResult:
        """Continue a paused saga where it stopped."""
        return self._ask(self._handle(saga_id), ResumeRequested(self._now(), _who(by)))

    def cancel(
        self,
        saga_id: SagaId,
        reason: str = "cancelled",
        *,
        by: str | None = None,
        terminate: bool = False,
    ) -> SagaResult:
        """Roll a saga back; see :meth:`SagaResult.cancel`. A saga that has ended is unchanged."""
        handle = self._handle(saga_id)
        handle.cancel(reason, _who(by), terminate=terminate)
        return handle

    def signal(
        self, saga_id: SagaId, name: str, payload: Any = None, *, by: str | None = None
    ) -> SagaResult:
        """Send a signal to a saga. The wait for it ends, at once or when the saga comes to it.

        Until a wait has used it, another signal of its name replaces it; after that such a one
        changes nothing. A saga that has ended, or is rolled back, refuses it.

        Args:
            name: the signal's; that of a wait in a loop has the item's number: ``approved[7]``.
                :attr:`Plan.signals` has all of them.
            payload: what the wait puts into the context.

        Raises:
            ValueError: the name is not a text, or is empty.
            UnknownSignal: the saga has no wait for it; it names the signals that there are.
            UnserializableValue, ContextTooLarge: the payload cannot be stored.
        """
        handle = self._handle(saga_id)
        handle.signal(name, payload, _who(by))
        return handle

    def bulk(
        self,
        verb: str,
        *arguments: Any,
        where: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        progress: Callable[[BulkResult], object] | None = None,
        **options: Any,
    ) -> BulkResult:
        """Carry out a verb for all sagas that match, as if it were called for one after the other.

        A saga that has changed since it was found is not special: it accepts the verb as it is
        then, or refuses it.

        Args:
            verb: ``"retry"``, ``"skip"``, ``"resolve"``, ``"pause"``, ``"resume"``, ``"cancel"`` or
                ``"signal"``.
            arguments: of the method of that name, behind the saga's id; so are ``options``.
            where: which sagas, as the arguments of :meth:`list`: ``{"saga": "checkout"}``. By
                default those in a status to which the verb applies; ``limit`` is 1,000 then.
            dry_run: whether only to find them.
            progress: is called with what was done so far, after each saga.

        Raises:
            ValueError: the verb or the filter is unknown.
            StoreUnavailable: in the middle of it; a second call continues.
        """
        result = BulkResult(verb, self._matching(verb, where or {}))
        for saga_id in () if dry_run else result.found:
            try:
                getattr(self, verb)(saga_id, *arguments, **options)
                result = replace(result, done=(*result.done, saga_id))
            except StoreUnavailable:
                raise
            except (SagaError, ValueError) as error:
                result = replace(result, refused={**result.refused, saga_id: str(error)})
            if progress is not None:
                progress(result)
        return result

    def _matching(self, verb: str, where: Mapping[str, Any]) -> tuple[str, ...]:
        if verb not in BULK:
            raise ValueError(f"bulk: verb: expected one of {', '.join(BULK)}, found {verb!r}")
        filters = set(inspect.signature(self.list).parameters)
        unknown = sorted(set(where) - filters)
        if unknown:
            known = ", ".join(sorted(filters))
            raise ValueError(f"bulk: where: expected some of {known}, found {unknown[0]!r}")
        asked = {"status": BULK[verb], "limit": BULK_LIMIT, **where}
        return tuple(execution.saga_id for execution in self.list(**asked))

    def _handle(self, saga_id: SagaId) -> SagaResult:
        return SagaResult(self._runtime, str(saga_id))

    def _now(self) -> float:
        return self._runtime.store.now()

    def _settle(self, handle: SagaResult, event: OfStuckSagas) -> SagaResult:
        """Send the request for the trouble that the saga has now, and for no later trouble."""
        found = handle.execution
        event = replace(event, stuck=found.stuck_count)
        self._runtime.apply(handle.id, event, found)
        return handle

    def _ask(self, handle: SagaResult, event: Any) -> SagaResult:
        self._runtime.apply(handle.id, event)
        return handle


def _who(by: str | None) -> str:
    if by is not None:
        return by
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):  # the user of a container may have no name
        return socket.gethostname()


def _read_all(store: Store, found: Iterable[tuple[SagaStatus, Found]]) -> Executions:
    """The sagas that still have the status in which they were found, the last changed first."""
    page = {
        known.saga_id: (int(known.since), execution)  # as it was found last, if it changes
        for status, known in found
        if (execution := _read(store, known.saga_id)) is not None and execution.status is status
    }
    # The index has whole seconds.
    ordered = sorted(page.values(), key=lambda pair: (-pair[0], -pair[1].updated_at))
    return [execution for _, execution in ordered]


def _read(store: Store, saga_id: str) -> SagaExecution | None:
    try:
        return store.load(saga_id, context=False)
    except UnreadableCheckpoint as error:
        log.error("%s (it is left out of the list)", error, extra={"saga_id": saga_id})
        return None


def _statuses(
    wanted: SagaStatus | str | Iterable[SagaStatus | str] | None,
    allowed: Iterable[SagaStatus] = SagaStatus,
) -> Statuses:
    known = {status.value: status for status in SagaStatus if status in set(allowed)}
    if wanted is None:
        return [*known.values()]
    given = [wanted] if isinstance(wanted, str) else [*wanted]
    for name in given:
        if not isinstance(name, str) or str(name).upper() not in known:
            raise ValueError(f"status: expected one of {', '.join(known)}, found {name!r}")
    return [known[str(name).upper()] for name in given]


def _seconds(age: float | timedelta) -> float:
    seconds = age.total_seconds() if isinstance(age, timedelta) else float(age)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"older_than: expected seconds of the past, found {age!r}")
    return seconds
