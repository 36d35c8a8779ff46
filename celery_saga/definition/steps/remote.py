"""Steps of other services: a request, and what is done with its reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from celery_saga.definition.operations import SagaOperation, operation_of, with_declared
from celery_saga.definition.steps.base import RemoteChain
from celery_saga.definition.steps.waits import seconds_of
from celery_saga.errors import (
    DefinitionError,
    MultipleOnErrorException,
    MultipleOnSuccessException,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from celery_saga.definition.operations import CallOptions, RemoteOptions, Target

Self = TypeVar("Self", bound="RemoteSagaStep")

#: Options of other steps that have no meaning here, and why.
_MEANINGLESS = {
    "on_lost": "its own tasks only make requests and handle replies, and are always run again",
    "compensate_on_failure": "a request without a reply is compensated, a refused one is not",
    "compensation": "give it with .on_failure()",
    "returns": "what its reply changes in the context is done by on_success",
}


class RemoteSagaStep(RemoteChain):
    """A step of another service: its action returns a :class:`SagaRequest`, which is sent.

    Args:
        on_execute: makes the request: a function or a task of this project.
        on_success: ``(context, response)``, run with a reply of status SUCCESS.
        on_error: the same, run with a reply of status ERROR; without it the step fails then.
        on_failure: makes the request that compensates the step.
        options: as for :meth:`Saga.remote_step`: ``timeout`` and others.
    """

    def __init__(
        self,
        on_execute: Target | None = None,
        on_success: Target | None = None,
        on_error: Target | None = None,
        on_failure: Target | None = None,
        **options: Unpack[RemoteOptions],
    ) -> None:
        for key, why in _MEANINGLESS.items():
            if key in options:
                raise DefinitionError(f"{key}= has no meaning for a remote step: {why}")
        given: dict[str, Any] = dict(options)
        timeout = given.pop("timeout", None)
        super().__init__(on_execute, on_failure, **given)
        #: Seconds until a request without a reply has failed; ``None``: as the setting says.
        self.timeout = None if timeout is None else seconds_of("remote_step: timeout", timeout)
        self.success: SagaOperation | None = None
        self.error: SagaOperation | None = None
        self._paired = False  # a task's own compensation makes no request
        if on_success is not None:
            self.on_success(on_success)
        if on_error is not None:
            self.on_error(on_error)

    def on_success(
        self: Self,
        callback: Target,
        parameters: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Self:
        """Set what is run with a reply of status SUCCESS: ``(context, response)``.

        Raises:
            MultipleOnSuccessException: it was set before.
            AlreadyCommittedException: the saga is committed.
        """
        self._check_open()
        if self.success is not None:
            raise MultipleOnSuccessException("the step has an on_success already")
        self.success, _ = operation_of(callback, parameters, dict(options))
        return self

    def on_error(
        self: Self,
        callback: Target,
        parameters: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Self:
        """Set what is run with a reply of status ERROR: ``(context, response)``.

        If it returns, the step has succeeded. If it raises, or returns an exception, it has failed.

        Raises:
            MultipleOnErrorException: it was set before.
            AlreadyCommittedException: the saga is committed.
        """
        self._check_open()
        if self.error is not None:
            raise MultipleOnErrorException("the step has an on_error already")
        self.error, _ = operation_of(callback, parameters, dict(options))
        return self

    def completed(self: Self, found: Any) -> Self:
        """Return the step with what ``@saga_step`` declared about its tasks."""
        made = super().completed(found)
        for role in ("success", "error"):
            operation = getattr(self, role)
            if operation is not None:
                setattr(made, role, with_declared(operation, found)[0])
        return made

    def operations(self) -> Iterator[tuple[str, SagaOperation]]:
        """What makes its requests, and what handles the replies."""
        yield from super().operations()
        if self.success is not None:
            yield "on_success", self.success
        if self.error is not None:
            yield "on_error", self.error

    def __repr__(self) -> str:
        return f"remote {super().__repr__()}"
