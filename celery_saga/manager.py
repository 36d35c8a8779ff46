"""``SagaManager(app)``: the one line that makes an app run sagas."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

from celery import Celery

from celery_saga.awaiting import run
from celery_saga.core.execution import SagaExecution
from celery_saga.definition import functions
from celery_saga.errors import DefinitionError, SagaExecutionNotFoundException, SetupError
from celery_saga.importing import take_in
from celery_saga.operators import Operators
from celery_saga.result import SagaResult
from celery_saga.runtime import Runtime, install
from celery_saga.saga import Saga
from celery_saga.settings import DEFAULTS
from celery_saga.stores.factory import checked
from celery_saga.worker import receivers, remote_control
from celery_saga.worker.heartbeat import RecoveryStep
from celery_saga.worker.hook import hook, verify
from celery_saga.worker.tasks import declare_tasks


class SagaManager(Operators):
    """Makes ``app`` run sagas; construct it in every process that starts or runs them.

    Put it on the line after ``app = Celery(...)``. It reads no configuration when constructed. A
    second one on the same app is another handle of the same engine.

    The Minos framework's call, ``SagaManager(storage=..., broker_pool=...)``, is understood too.

    Args:
        app: the Celery app.
        storage: where its sagas are kept: a store's URL, as for ``saga_store_url``, which it goes
            before, or a :class:`~celery_saga.stores.Store`, which belongs to the app from now on;
            by default what the app's settings say.
        broker_pool: the Celery app, if it is not given as ``app``: its broker is the sagas'.

    Raises:
        SetupError: something is not what it should be, or the app has a manager with another
            storage.
    """

    def __init__(
        self,
        app: Celery | None = None,
        *,
        storage: Any = None,
        broker_pool: Any = None,
        **gone: Any,
    ) -> None:
        if gone:
            raise SetupError(
                f"SagaManager: {sorted(gone)[0]}= has no meaning here: broker, store and settings "
                f"are those of the Celery app, SagaManager(app)"
            )
        self.app = _checked_app(app, broker_pool, storage)
        if isinstance(storage, SagaExecutionRepository):
            storage = None  # of the same app, and so its store as it is
        given = None if storage is None else checked(storage)
        self._runtime = install(self.app, given, _set_up)

    @overload
    async def run(
        self,
        definition: Saga | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        return_execution: Literal[True] = True,
        **options: Any,
    ) -> SagaExecution: ...
    @overload
    async def run(
        self,
        definition: Saga | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        return_execution: bool,
        **options: Any,
    ) -> SagaExecution | uuid.UUID | str: ...
    async def run(
        self,
        definition: Saga | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        return_execution: bool = True,
        **options: Any,
    ) -> SagaExecution | uuid.UUID | str:
        """Start a saga and wait for its end, without blocking the event loop.

        Cancelling the coroutine does nothing to a saga that was started. A saga that is bound to no
        app runs on this manager's.

        Args:
            definition: the committed saga.
            context: what it begins with.
            return_execution: the execution, or else its id alone.
            options: ``pause_on_disk``, ``raise_on_error``, ``timeout``, ``response``, ``user`` and
                ``autocommit``, as :func:`celery_saga.awaiting.run` has them; all others are those
                of :meth:`Saga.apply_async`.

        Returns:
            The settled execution, or the id: a UUID, or a text if ``saga_id=`` was none.

        Raises:
            SagaFailedExecutionStepException: it was undone (SagaCompensated) or is stuck
                (SagaStuck); ``exception`` is what the step raised.
            celery.exceptions.TimeoutError: it is not settled in time; it runs on.
            RuntimeError: called inside a task, where waiting can lock up the workers.
            ValueError, NotImplementedError: an option asks for what is not there.
            SagaError, TypeError: as :meth:`Saga.apply_async`.
        """
        execution = await run(self._runtime, definition, context, **options)
        return execution if return_execution else execution.uuid

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
        name = functions.wire_name(function, None)
        if name is None:
            raise DefinitionError(
                f"manager.register: expected a function at the top level of a module, found "
                f"{function.__qualname__}"
            )
        functions.register(name, function)
        return function

    @property
    def repository(self) -> SagaExecutionRepository:
        """The saved executions of this app."""
        return SagaExecutionRepository(self.app)


class SagaExecutionRepository:
    """The saved executions, in the shape of the Minos framework's repository.

    Args:
        app: a Celery app with a :class:`SagaManager`.
    """

    def __init__(self, app: Celery) -> None:
        self._runtime: Runtime = SagaManager(app)._runtime

    async def store(self, execution: SagaExecution) -> None:
        """Take in an execution that was exported elsewhere; see :meth:`SagaExecution.from_raw`.

        It must not be on its way anywhere else any more: it goes on here, with a step that was
        running then as one whose outcome is unknown.

        Raises:
            SagaAlreadyExists: there is one with its id, which stays as it is.
        """
        await asyncio.to_thread(take_in, self._runtime.store, execution)

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


def _checked_app(app: Any, broker_pool: Any, storage: Any) -> Celery:
    """The one app that all of them speak of.

    Raises:
        SetupError: they speak of none or of several, or one of them is something else.
    """
    given = {"app": app, "broker_pool": broker_pool}
    if isinstance(storage, SagaExecutionRepository):
        given["storage"] = storage._runtime.app
    apps: dict[int, Celery] = {}
    for name, found in given.items():
        if found is None:
            continue
        if not isinstance(found, Celery):
            raise SetupError(
                f"SagaManager: {name}: expected a Celery app, found a {type(found).__name__}; "
                f"broker and settings of sagas are the app's: SagaManager(app)"
            )
        real: Celery = getattr(found, "_get_current_object", lambda one=found: one)()
        apps[id(real)] = real
    if len(apps) != 1:
        raise SetupError(
            f"SagaManager: expected one Celery app, SagaManager(app), found "
            f"{' and '.join(repr(one.main) for one in apps.values()) or 'none'}"
        )
    return next(iter(apps.values()))


def _set_up(app: Celery) -> None:
    if getattr(app, "configured", False):
        _add_defaults(app, app.conf)
    # Each time: a later config_from_object makes a new configuration.
    app.on_after_configure.connect(_add_defaults, weak=False)
    hook(app)
    declare_tasks(app)
    app.steps["worker"].add(RecoveryStep)
    receivers.connect()
    remote_control.connect()
    names: set[str] = set()

    def declare(name: str, function: Callable[..., Any]) -> None:
        if name not in names:  # many sagas may use one function
            names.add(name)
            _as_task(app, name, function)

    functions.subscribe(declare)
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
    wire_name, name = name, functions.task_name(name, app.main)

    def run(context: Any, /, **parameters: Any) -> Any:
        # Looked up anew: its module may have been imported a second time.
        return (functions.known(wire_name) or function)(context, **parameters)

    if function.__name__.isidentifier():  # Celery writes code with it, and "<lambda>" is none
        run.__name__ = function.__name__
    run.__doc__, run.__module__ = function.__doc__, function.__module__
    declare: Any = app.task
    declare(run, name=name, shared=False, typing=False)
