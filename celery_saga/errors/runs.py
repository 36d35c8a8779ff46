"""Errors that concern one run of a saga, and how a run ended."""

from __future__ import annotations

from typing import Any

from celery_saga.errors.base import SagaError


class SagaExecutionException(SagaError):
    """Base of errors that concern one run of a saga."""


class SagaExecutionNotFoundException(SagaExecutionException, LookupError):
    """No saga has this id, or its checkpoint has expired."""

    def __init__(self, saga_id: str) -> None:
        super().__init__(saga_id)
        self.saga_id = saga_id

    def __str__(self) -> str:
        return f"no saga with id {self.saga_id!r} (it never started, or its checkpoint expired)"


SagaNotFound = SagaExecutionNotFoundException


class SagaAlreadyExists(SagaExecutionException):
    """The id is taken by another saga, by one with another context, or by any if so requested.

    Args:
        saga_name: the name of the saga that has it.
        why: the difference between that saga and the one to be started, as text.

    Attributes:
        existing: the :class:`SagaResult` of the run that has the id; ``None`` after pickling and in
            the Celery result of a start by message.
    """

    existing: Any = None

    def __init__(self, saga_id: str, saga_name: str, why: str = "") -> None:
        super().__init__(saga_id, saga_name, why)
        self.saga_id, self.saga_name, self.why = saga_id, saga_name, why

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args  # the handle of a run belongs to its process

    def __str__(self) -> str:
        return f"saga id {self.saga_id!r} is taken by a run of saga {self.saga_name!r}{self.why}"


class IllegalSagaId(SagaExecutionException, ValueError):
    """``saga_id`` cannot be the id of a saga; ``what`` says where it was given."""

    def __init__(self, what: str, saga_id: Any) -> None:
        super().__init__(what, saga_id)
        self.what, self.saga_id = what, saga_id

    def __str__(self) -> str:
        expected = "1 to 64 letters, digits, '.', '_' or '-'"
        return f"{self.what}: expected {expected}, found {self.saga_id!r}"


class SagaPastPivot(SagaExecutionException):
    """The pivot was dispatched: the saga can only go forward.

    Args:
        pivot: the pivot's name; empty: there is none, and the commit tasks were dispatched.
    """

    def __init__(self, saga_id: str, pivot: str) -> None:
        super().__init__(saga_id, pivot)
        self.saga_id, self.pivot = saga_id, pivot

    def __str__(self) -> str:
        what = f"its pivot {self.pivot!r} was" if self.pivot else "its on_commit tasks were"
        return f"saga {self.saga_id!r} cannot be cancelled: {what} dispatched"


class SagaNotActionable(SagaExecutionException):
    """An operator's request does not apply to the saga's status; nothing changed."""

    def __init__(self, saga_id: str, verb: str, status: str) -> None:
        super().__init__(saga_id, verb, status)
        self.saga_id, self.verb, self.status = saga_id, verb, status

    def __str__(self) -> str:
        return f"saga {self.saga_id!r} is {self.status}: {self.verb} does not apply"


class UnknownSignal(SagaExecutionException, ValueError):
    """A saga has no wait for a signal of this name; nothing changed.

    Args:
        signal: the name that was given.
        known: the names of the signals for which it has waits, in words.
    """

    def __init__(self, saga_id: str, signal: str, known: str) -> None:
        super().__init__(saga_id, signal, known)
        self.saga_id, self.signal, self.known = saga_id, signal, known

    def __str__(self) -> str:
        return f"saga {self.saga_id!r} does not wait for a signal {self.signal!r}: {self.known}"


class SagaStepExecutionException(SagaExecutionException):
    """Base of errors that concern one step of a run."""


class SagaRollbackExecutionException(SagaExecutionException):
    """The effects of a failed saga could not all be compensated."""


class SagaFailedExecutionException(SagaExecutionException):
    """A saga ended without completing.

    Args:
        step: the name of the step that failed; empty if none did.
        cause: type and text of the error, as recorded.
    """

    _ending = "failed"

    def __init__(self, saga_id: str, step: str = "", cause: str = "") -> None:
        super().__init__(saga_id, step, cause)
        self.saga_id, self.step, self.cause = saga_id, step, cause

    @property
    def exception(self) -> BaseException | None:
        """The error of the step (``__cause__``); ``None`` after pickling or JSON, which drop it."""
        return self.__cause__

    def __str__(self) -> str:
        where = f" at step {self.step!r}" if self.step else ""
        cause = f": {self.cause}" if self.cause else ""
        return f"saga {self.saga_id!r} {self._ending}{where}{cause}"


class SagaFailedCommitCallbackException(SagaFailedExecutionException):
    """The Minos framework's second phase failed. celery_saga has none and never raises this."""


class SagaFailedExecutionStepException(SagaFailedExecutionException, SagaStepExecutionException):
    """A saga ended without completing, because a step failed or it was cancelled."""


class SagaCompensated(SagaFailedExecutionStepException):
    """The saga failed or was cancelled, and all of its effects were compensated."""

    _ending = "was compensated after it failed"


class SagaStuck(SagaFailedExecutionStepException, SagaRollbackExecutionException):
    """The saga cannot continue in either direction without an operator."""

    _ending = "is stuck"
