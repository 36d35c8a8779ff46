"""What a person on call asks of the sagas of an app: find them, and get them out of trouble."""

from __future__ import annotations

import getpass
import logging
import socket
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from celery_saga.core.context.data import encoded
from celery_saga.core.decide.operators import OfStuckSagas
from celery_saga.core.events import (
    PauseRequested,
    ResolveRequested,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
)
from celery_saga.core.execution import TERMINAL, SagaExecution, SagaStatus
from celery_saga.core.ports import Store
from celery_saga.errors import UnreadableCheckpoint
from celery_saga.result import SagaResult
from celery_saga.runtime import Runtime

log = logging.getLogger("celery_saga")

#: A saga by its id, or by the handle of it.
SagaId = str | uuid.UUID | SagaResult

Executions = list[SagaExecution]
Statuses = list[SagaStatus]


class Operators:
    """Lists sagas, and repairs them; every request leaves a line in the saga's history.

    Each verb of one saga returns its handle. All raise :class:`SagaExecutionNotFoundException` for
    an id that is not there, and :class:`SagaNotActionable`, which changes nothing, where the verb
    does not fit the saga's status. ``by`` says who asks; by default that is ``user@host``.
    """

    _runtime: Runtime

    def list(
        self,
        status: SagaStatus | str | Iterable[SagaStatus | str] | None = None,
        *,
        saga: str | None = None,
        older_than: float | timedelta | None = None,
        limit: int = 100,
    ) -> Executions:
        """Sagas of this app, those first that changed last.

        Args:
            status: one or several; by default all.
            saga: the saga's name.
            older_than: only those that have had their status for longer: seconds, or a timedelta.
            limit: how many at most.

        Returns:
            Their executions without their contexts, which ``get(saga_id).context`` reads. One
            that cannot be read is left out, with an error in the log.

        Raises:
            ValueError: there is no such status, or a number is none that can be.
        """
        if limit < 1:
            raise ValueError(f"list: limit: expected 1 or more, found {limit!r}")
        store, until = self._runtime.store, None
        if older_than is not None:
            until = store.now() - _seconds(older_than)
        found = {
            saga_id: execution  # of one that moves on meanwhile, as it was found last
            for each in _statuses(status)
            for saga_id in store.find(each, limit, saga, until)
            if (execution := _read(store, saga_id)) is not None and execution.status is each
        }
        return sorted(found.values(), key=lambda execution: -execution.updated_at)[:limit]

    def retry(
        self, saga_id: SagaId, context: Mapping[str, Any] | None = None, *, by: str | None = None
    ) -> SagaResult:
        """Let a stuck saga try again what holds it up.

        Args:
            context: keys to set first, over what the context and its steps' results hold.

        Raises:
            UnserializableValue, ContextTooLarge: the context cannot be stored with these keys.
        """
        handle, update = self._handle(saga_id), encoded(context or {}, self._runtime.codec)
        if update:
            after = handle.execution.with_values(update)
            encoded(after.values).check_size(self._runtime.settings.context_limit)
        return self._settle(handle, RetryRequested(self._now(), _who(by), update))

    def skip(self, saga_id: SagaId, *, by: str | None = None) -> SagaResult:
        """A person has dealt with the step that holds a stuck saga up: go on behind it."""
        return self._settle(self._handle(saga_id), SkipRequested(self._now(), _who(by)))

    def resolve(
        self, saga_id: SagaId, status: SagaStatus | str, *, by: str | None = None
    ) -> SagaResult:
        """A person has settled a stuck saga, and says how it ended.

        Args:
            status: ``COMPLETED`` or ``COMPENSATED``.
        """
        (found,) = _statuses(status, TERMINAL)
        return self._settle(self._handle(saga_id), ResolveRequested(self._now(), found, _who(by)))

    def pause(self, saga_id: SagaId, *, by: str | None = None) -> SagaResult:
        """Send no further step; the one that is on its way may end."""
        return self._ask(self._handle(saga_id), PauseRequested(self._now(), _who(by)))

    def resume(self, saga_id: SagaId, *, by: str | None = None) -> SagaResult:
        """Take a paused saga up where it stopped."""
        return self._ask(self._handle(saga_id), ResumeRequested(self._now(), _who(by)))

    def cancel(
        self,
        saga_id: SagaId,
        reason: str = "cancelled",
        *,
        by: str | None = None,
        terminate: bool = False,
    ) -> SagaResult:
        """Have a saga undone; see :meth:`SagaResult.cancel`. One that is over stays as it is."""
        handle = self._handle(saga_id)
        handle.cancel(reason, _who(by), terminate=terminate)
        return handle

    def _handle(self, saga_id: SagaId) -> SagaResult:
        return SagaResult(self._runtime, str(saga_id))

    def _now(self) -> float:
        return self._runtime.store.now()

    def _settle(self, handle: SagaResult, event: OfStuckSagas) -> SagaResult:
        """Ask it of the trouble that the saga has now, and of none that it comes to meanwhile."""
        found = handle.execution
        event = replace(event, stuck=found.stuck_count)
        self._runtime.orchestrator.apply(handle.id, event, found)
        return handle

    def _ask(self, handle: SagaResult, event: Any) -> SagaResult:
        self._runtime.orchestrator.apply(handle.id, event)
        return handle


def _who(by: str | None) -> str:
    if by is not None:
        return by
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):  # a container whose user has no name
        return socket.gethostname()


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
