"""The state of a saga that is on its way, for ``AsyncResult(saga_id).state``.

As for tasks it costs a write for each step, and is there if ``task_track_started`` says so. Then a
saga's result is ``STARTED`` with its progress from the claim of its first step on.
"""

from __future__ import annotations

import logging

from celery import Celery, states

from celery_saga.core.execution import SagaStatus
from celery_saga.core.ports import Store
from celery_saga.messaging.outcome import failure_of, progress_of
from celery_saga.messaging.results import request_of, store_result

log = logging.getLogger("celery_saga")


def track(app: Celery, store: Store, saga_id: str) -> None:
    """Store where the saga is, for a step that has just been claimed; never raises.

    While a claim is held the saga does not settle, unless its holder was taken for dead. The end of
    such a saga, over which this may have been written, is stored again. (Some of Celery's backends
    let nobody write over a success, but look for one first and write then.)
    """
    try:
        execution = store.load(saga_id, context=False)
        if execution is None or execution.settled or not execution.wants_result:
            return
        request = request_of(execution)
        app.backend.store_result(saga_id, progress_of(execution), states.STARTED, request=request)
        after = store.load(saga_id, context=False)
        if after is not None and after.status is SagaStatus.COMPLETED:
            whole = store.load(saga_id)
            if whole is not None:
                store_result(app, whole, request)
        elif after is not None and after.settled:
            app.backend.mark_as_failure(
                saga_id, failure_of(after), request=request, call_errbacks=False
            )
    except Exception:
        # The step matters more than what is shown of it.
        extra = {"saga_id": saga_id}
        log.warning(
            "saga %s: its progress could not be stored", saga_id, exc_info=True, extra=extra
        )
