"""``SagaManager(app)``: the one line that makes an app run sagas."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from celery import Celery

from celery_saga import callables, reports
from celery_saga.errors import DefinitionError, SagaExecutionNotFoundException, SetupError
from celery_saga.execution import SagaExecution
from celery_saga.hook import hook, verify
from celery_saga.recovery import RecoveryStep
from celery_saga.result import SagaResult
from celery_saga.runtime import Runtime, install
from celery_saga.settings import DEFAULTS
from celery_saga.tasks import declare_tasks


class SagaManager:
    """Makes ``app`` run sagas; construct it in every process that starts or runs them.

    Put it on the line after ``app = Celery(...)``. It reads no configuration when constructed. A
    second one on the same app is another handle of the same engine.

    Args:
        app: the Celery app.

    Raises:
        SetupError: ``app`` is not a Celery app.
    """

    def __init__(self, app: Celery) -> None:
        if not isinstance(app, Celery):
            raise SetupError(f"SagaManager: expected a Celery app, found a {type(app).__name__}")
        self.app = app
        self._runtime, new = install(app)
        if new:
            _set_up(app)

    def get(self, saga_id: str | uuid.UUID) -> SagaResult:
        """The handle of a saga that was started before.

        Raises:
            SagaExecutionNotFoundException: there is none with this id.
        """
        result = SagaResult(self._runtime, str(saga_id))
        result.execution  # noqa: B018 - raises if there is no such saga
        return result

    def register(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a plain function known to the workers that import this module; usable above it.

        Raises:
            DefinitionError: its name stands for another function.
        """
        name = callables.wire_name(function, None)
        if name is None:
            raise DefinitionError(
                f"manager.register: expected a function at the top level of a module, found "
                f"{function.__qualname__}"
            )
        callables.register(name, function)
        return function

    @property
    def repository(self) -> SagaExecutionRepository:
        """The saved executions of this app."""
        return SagaExecutionRepository(self.app)


class SagaExecutionRepository:
    """Reads saved executions, in the shape of the Minos framework's repository.

    Args:
        app: a Celery app with a :class:`SagaManager`.
    """

    def __init__(self, app: Celery) -> None:
        self._runtime: Runtime = SagaManager(app)._runtime

    async def load(self, saga_id: str | uuid.UUID) -> SagaExecution:
        """The execution as it was saved last.

        Raises:
            SagaExecutionNotFoundException: there is none with this id.
        """
        return await asyncio.to_thread(self._runtime.orchestrator.load, str(saga_id))

    async def delete(self, saga_id: str | uuid.UUID | SagaExecution) -> None:
        """Forget an execution.

        Raises:
            SagaExecutionNotFoundException: there is none with this id.
        """
        key = saga_id.saga_id if isinstance(saga_id, SagaExecution) else str(saga_id)
        if not await asyncio.to_thread(self._runtime.store.delete, key):
            raise SagaExecutionNotFoundException(key)


def _set_up(app: Celery) -> None:
    if getattr(app, "configured", False):
        _add_defaults(app, app.conf)
    # Each time: a later config_from_object makes a new configuration.
    app.on_after_configure.connect(_add_defaults, weak=False)
    hook(app)
    declare_tasks(app)
    app.steps["worker"].add(RecoveryStep)
    reports.connect()
    names: set[str] = set()

    def declare(name: str, function: Callable[..., Any]) -> None:
        if name not in names:  # many sagas may use one function
            names.add(name)
            _as_task(app, name, function)

    callables.subscribe(declare)
    if getattr(app, "finalized", False):
        verify(app)
    app.on_after_finalize.connect(_verify, weak=False)


def _add_defaults(sender: Celery, source: Any, **kwargs: Any) -> None:
    # What add_defaults gets stands before a configuration module: only what is not set goes there.
    source.add_defaults({key: value for key, value in DEFAULTS.items() if key not in source})


def _verify(sender: Celery, **kwargs: Any) -> None:
    verify(sender)


def _as_task(app: Celery, name: str, function: Callable[..., Any]) -> None:
    """A plain function as a task of the app, under the name by which sagas call it."""
    wire_name, name = name, callables.task_name(name, app.main)

    def run(context: Any, /, **parameters: Any) -> Any:
        # Looked up anew: its module may have been imported a second time.
        return (callables.known(wire_name) or function)(context, **parameters)

    if function.__name__.isidentifier():  # Celery writes code with it, and "<lambda>" is none
        run.__name__ = function.__name__
    run.__doc__, run.__module__ = function.__doc__, function.__module__
    declare: Any = app.task
    declare(run, name=name, shared=False, typing=False)
