"""``SagaManager(app)``: the one line that enables an app to run sagas."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, overload

from celery import Celery

from celery_saga.aio import run
from celery_saga.core.execution import SagaExecution
from celery_saga.core.remote import SagaResponse, SagaResponseStatus
from celery_saga.definition import functions
from celery_saga.errors import DefinitionError, SetupError
from celery_saga.operators import Operators
from celery_saga.repository import SagaExecutionRepository
from celery_saga.result import C, SagaResult
from celery_saga.saga import Saga
from celery_saga.worker.remote.replies import reply_to, respond
from celery_saga.worker.set_up import enabled


class SagaManager(Operators):
    """Enables ``app`` to run sagas; construct it in every process that starts or runs them.

    Put it on the line after ``app = Celery(...)``. It reads no configuration when constructed. A
    second one on the same app is another handle of the same engine.

    The Minos framework's call, ``SagaManager(storage=..., broker_pool=...)``, is supported too.

    Args:
        app: the Celery app.
        storage: where its sagas are kept: a store's URL, as for ``saga_store_url``, over which it
            takes precedence, or a :class:`~celery_saga.stores.Store`, which the app owns from now
            on; by default what the app's settings say.
        broker_pool: the Celery app, if it is not given as ``app``: its broker is the sagas'.

    Raises:
        SetupError: an argument is not what is expected, or the app has a manager with another
            storage.
    """

    def __init__(
        self,
        app: Celery | None = None,
        *,
        storage: Any = None,
        broker_pool: Any = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise SetupError(
                f"SagaManager: {sorted(unknown)[0]}= is not supported: broker, store and settings "
                f"are those of the Celery app, SagaManager(app)"
            )
        self.app = _checked_app(app, broker_pool, storage)
        if isinstance(storage, SagaExecutionRepository):
            storage = None  # of the same app, so its store stays
        self._runtime = enabled(self.app, storage)

    async def __aenter__(self) -> SagaManager:
        """Enter a block, as of the Minos framework's manager.

        The engine belongs to the app: nothing is opened here, and nothing is closed at the end.
        """
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    @overload
    async def run(
        self,
        definition: Saga[C] | None = None,
        context: Mapping[str, Any] | C | None = None,
        *,
        return_execution: Literal[True] = True,
        **options: Any,
    ) -> SagaExecution: ...
    @overload
    async def run(
        self,
        definition: Saga[C] | None = None,
        context: Mapping[str, Any] | C | None = None,
        *,
        return_execution: bool,
        **options: Any,
    ) -> SagaExecution | uuid.UUID | str: ...
    async def run(
        self,
        definition: Saga[C] | None = None,
        context: Mapping[str, Any] | C | None = None,
        *,
        return_execution: bool = True,
        **options: Any,
    ) -> SagaExecution | uuid.UUID | str:
        """Start a saga and wait for its end, without blocking the event loop.

        Cancelling the coroutine has no effect on a saga that was started. A saga that is not bound
        to an app runs on this manager's.

        Args:
            definition: the committed saga.
            context: the values that the saga begins with.
            return_execution: whether to return the execution, or its id alone.
            options: ``pause_on_disk``, ``raise_on_error``, ``timeout``, ``response``, ``user`` and
                ``autocommit``, as :func:`celery_saga.aio.run` has them; all others are those
                of :meth:`Saga.apply_async`.

        Returns:
            The settled execution, or the id: a UUID, or a text if ``saga_id=`` was not a UUID.

        Raises:
            SagaFailedExecutionStepException: it was rolled back (SagaCompensated) or is stuck
                (SagaStuck); ``exception`` is what the step raised.
            celery.exceptions.TimeoutError: it is not settled in time; it continues to run.
            RuntimeError: called inside a task, where waiting can deadlock the workers.
            ValueError: an option asks for something that is not supported.
            SagaError, TypeError: as :meth:`Saga.apply_async`.
        """
        options["respond"] = partial(respond, self._runtime)
        execution = await run(self._runtime, definition, context, **options)
        return execution if return_execution else execution.uuid

    @overload
    def get(self, saga_id: str | uuid.UUID) -> SagaResult: ...
    @overload
    def get(self, saga_id: str | uuid.UUID, definition: Saga[C]) -> SagaResult[C]: ...
    def get(self, saga_id: str | uuid.UUID, definition: Any = None) -> SagaResult[Any]:
        """Return the handle of a saga that was started before.

        Args:
            definition: the saga, if the handle shall return the context as its model.

        Raises:
            SagaExecutionNotFoundException: no saga has this id.
        """
        model = definition.model if definition is not None else None
        result: SagaResult[Any] = SagaResult(self._runtime, str(saga_id), model=model)
        result.execution  # noqa: B018 - raises if no saga has this id
        return result

    def reply(
        self,
        saga_id: str | uuid.UUID,
        step: str,
        content: Any = None,
        status: SagaResponseStatus | int = SagaResponseStatus.SUCCESS,
        *,
        token: str,
        related_services: Iterable[str] = (),
    ) -> bool:
        """Reply to the request of a remote step, where no Celery task does so: an HTTP callback.

        A reply that is not awaited (any more), or that has another token, changes nothing.

        Args:
            step: the step's name, or ``"ref"`` of the request's header ``saga_request``.
            content: what its handler gets as ``response.content()``.
            status: 200, 400 (it refuses, nothing happened) or 500 (its effect is not known).
            token: that of the header.
            related_services: names of the services that took part.

        Returns:
            Whether it was awaited.

        Raises:
            SagaExecutionNotFoundException: no saga has this id.
            ValueError: the saga has no such remote step, or the status is none of the three.
            UnserializableValue: the content is not JSON-serializable.
        """
        response = SagaResponse(content, related_services, status)
        return reply_to(self._runtime, str(saga_id), step, token, response)

    def register(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register a plain function for the workers that import this module; also a decorator.

        Raises:
            DefinitionError: its name is registered for another function.
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


def _checked_app(app: Any, broker_pool: Any, storage: Any) -> Celery:
    """Return the one app that all arguments belong to.

    Raises:
        SetupError: they name no app or several, or one of them is something else.
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
