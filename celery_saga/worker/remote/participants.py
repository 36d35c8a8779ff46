"""Tasks that serve the requests of other services' sagas."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, overload

from celery import current_task, states

from celery_saga.core.remote import SagaResponse, SagaResponseStatus
from celery_saga.errors import SagaParticipantError
from celery_saga.messaging.message import request_header_of

log = logging.getLogger("celery_saga")

F = TypeVar("F", bound=Callable[..., Any])

Errors = type[Exception] | tuple[type[Exception], ...]


@overload
def saga_participant(function: F) -> F: ...
@overload
def saga_participant(*, refuses: Errors = ()) -> Callable[[F], F]: ...
def saga_participant(function: Any = None, *, refuses: Errors = ()) -> Any:
    """Make a task's function serve requests of remote steps; put it below ``@app.task``.

    ``SagaParticipantError``, and the errors in ``refuses``, become replies of status ERROR: they
    say that nothing happened. A :class:`SagaResponse` that it returns is the reply. A message that
    is delivered twice is answered from the task's result, if its result backend has it, and the
    function is not run again. A call outside of a saga is not changed.

    Args:
        refuses: classes of the service's own errors.
    """
    own = refuses if isinstance(refuses, tuple) else (refuses,)
    refusals: tuple[type[Exception], ...] = (SagaParticipantError, *own)

    def decorate(function: Any) -> Any:
        @wraps(function)
        def serve(*args: Any, **kwargs: Any) -> Any:
            task: Any = current_task
            if not task or request_header_of(task.request) is None:
                return function(*args, **kwargs)
            found = _recorded(task)
            if found is not None:
                return found[0]
            try:
                result = function(*args, **kwargs)
            except refusals as error:
                content = error.content if isinstance(error, SagaParticipantError) else str(error)
                result = SagaResponse(content, status=SagaResponseStatus.ERROR)
            return result.__json__() if isinstance(result, SagaResponse) else result

        return serve

    return decorate if function is None else decorate(function)


def _recorded(task: Any) -> tuple[Any] | None:
    """The result that an earlier delivery of the request has stored; ``None``: there is none."""
    try:
        meta = task.backend.get_task_meta(task.request.id)
    except Exception:  # no result backend, or one that is unavailable
        log.debug("no record of request %s", task.request.id, exc_info=True)
        return None
    if meta.get("status") != states.SUCCESS:
        return None
    log.info("request %s was served before: its reply is sent again", task.request.id)
    return (meta.get("result"),)
