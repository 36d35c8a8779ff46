"""Delivers a task's message as a worker does: through Celery's tracer and the engine's wrapper."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, signals, states
from celery.app.trace import build_tracer
from celery.exceptions import Retry
from celery.result import denied_join_result

from celery_saga.testing.kit.faults import Body, ProcessEnded
from celery_saga.testing.kit.outbox import SentTask

#: The name of the worker, in claims and requests.
NODE = "test@kit"

#: How a delivery ended.
RETURNED, RAISED, RETRIED, LOST, LIMIT, REQUEUED, NOT_RUN = (
    "returned",
    "raised",
    "retried",
    "lost its worker",
    "hit its time limit",
    "requeued",
    "not run",
)


class Delivery:
    """One delivery of a task's message.

    Args:
        app: the Celery app.
        message: see :class:`SentTask`.
        replaced: makes the body to run of the task's own.

    Attributes:
        began: whether the body, or what is in its place, was called.
        inputs: with which arguments.
        outcome: how it ended; ``error``: the exception.
    """

    def __init__(self, app: Celery, message: SentTask, replaced: Callable[[Body], Body]) -> None:
        self._app, self._message, self._replaced = app, message, replaced
        self._task: Any = app.tasks[message.name]
        self.began, self.outcome = False, NOT_RUN
        self.inputs: Mapping[str, Any] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        """Deliver it; what becomes of the step is reported by the engine's own code."""
        message, task = self._message, self._task
        tracer: Any = build_tracer(task.name, task, eager=True, propagate=False, app=self._app)
        try:
            with self._body_replaced(), denied_join_result():
                traced = tracer(message.id, message.args, message.kwargs, self._request())
        except (ProcessEnded, SystemExit) as error:
            self._end_process(error)
        except MemoryError as error:
            self.outcome, self.error = RAISED, error
        else:
            self._note(traced.info)

    def _note(self, info: Any) -> None:
        if info is None:
            self.outcome = RETURNED
            return
        self.error = info.retval
        if info.state == states.RETRY or isinstance(self.error, Retry):
            self.outcome, self.error = RETRIED, getattr(self.error, "exc", None)
        elif info.state == states.REJECTED:
            self.outcome = REQUEUED if getattr(self.error, "requeue", False) else RAISED
        elif self.began:
            self.outcome = RAISED

    def _request(self) -> dict[str, Any]:
        """What a worker makes of a message: the fields of ``self.request``."""
        message = self._message
        embed = {name: message.embed.get(name) for name in ("callbacks", "errbacks", "chain")}
        return {
            **message.headers,
            **embed,
            "chord": message.embed.get("chord"),
            "hostname": NODE,
            "delivery_info": dict(message.delivery_info),
            "is_eager": False,
        }

    @contextmanager
    def _body_replaced(self) -> Iterator[None]:
        """Put another body under the task's own wrappers, for this delivery alone.

        A task with ``autoretry_for`` has its function under another name: what is raised in its
        place is retried as what it raises itself.
        """
        task = self._task
        name = "_orig_run" if hasattr(task, "_orig_run") else "run"
        own, missing = getattr(task, name), object()
        before = vars(task).get(name, missing)
        setattr(task, name, self._noting(own, self._replaced(own)))
        try:
            yield
        finally:
            if before is missing:
                delattr(task, name)
            else:
                setattr(task, name, before)

    def _noting(self, own: Body, body: Body) -> Body:
        @functools.wraps(own)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.began, self.inputs = True, _named(own, args, kwargs)
            return body(*args, **kwargs)

        return run

    def _end_process(self, error: BaseException) -> None:
        """Report what a worker's main process reports of a process that is lost."""
        hard = isinstance(error, ProcessEnded) and error.hard_limit
        self.outcome = LIMIT if hard else LOST
        own = (self._message.headers.get("timelimit") or (None,))[0]
        limit = own or self._task.time_limit or self._app.conf.task_time_limit or 0
        made = TimeLimitExceeded(limit) if hard else WorkerLostError("the test ended its process")
        self.error = made
        try:
            raise made
        except Exception:
            info = ExceptionInfo()
        signals.task_failure.send(
            sender=self._task,
            task_id=self._message.id,
            exception=made,
            args=self._message.args,
            kwargs=self._message.kwargs,
            traceback=info.traceback,
            einfo=info,
        )


def _named(body: Body, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by the names of their parameters, as far as these are known."""
    try:
        return dict(inspect.signature(body).bind_partial(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return {**{str(number): value for number, value in enumerate(args)}, **kwargs}
