"""What goes wrong before a step can run, or around it: definitions, values, messages, stores."""

from __future__ import annotations


class SagaError(Exception):
    """Base of all errors of this library."""


SagaException = SagaError


class DefinitionError(SagaError, ValueError):
    """A saga is put together wrongly; nothing was started."""


class DefinitionWarning(UserWarning):
    """A saga can be started, and something about it will go wrong in a bad moment."""


class EmptySagaException(DefinitionError):
    """The saga has no steps."""


class SagaNotCommittedException(DefinitionError):
    """The saga is not committed."""


class AlreadyCommittedException(DefinitionError):
    """A committed saga is immutable."""


class SagaStepException(DefinitionError):
    """One step is put together wrongly."""


class SagaNotDefinedException(SagaStepException):
    """The step belongs to no saga."""


class EmptySagaStepException(SagaStepException):
    """The step has no callback."""


class UndefinedOnExecuteException(SagaStepException):
    """The step has an undo and nothing to do."""


class AlreadyOnSagaException(SagaStepException):
    """The step belongs to a saga already."""


class MultipleOnExecuteException(SagaStepException):
    """The step's action was given twice."""


class MultipleOnFailureException(SagaStepException):
    """The step's compensation was given twice."""


class SetupError(SagaError):
    """The app or the store cannot run sagas as it is set up; the text says what to change."""


class UnserializableValue(SagaError, ValueError):
    """A value cannot travel as JSON and come back equal and of its type.

    Args:
        path: where it stands, such as ``context['order']['lines'][2]``.
        found: what was found there.
        advice: what to use instead.
    """

    def __init__(self, path: str, found: str, advice: str = "") -> None:
        super().__init__(path, found, advice)
        self.path, self.found, self.advice = path, found, advice

    def __str__(self) -> str:
        return f"{self.path}: {self.found}" + (f"; {self.advice}" if self.advice else "")


class ContextTooLarge(SagaError, ValueError):
    """A context is larger than the setting ``saga_context_limit`` allows.

    Args:
        size: characters of all its values as JSON text.
        limit: the setting.
        largest: its largest keys with their sizes, in words.
    """

    def __init__(self, size: int, limit: int, largest: str) -> None:
        super().__init__(size, limit, largest)
        self.size, self.limit, self.largest = size, limit, largest

    def __str__(self) -> str:
        return (
            f"context: {self.size} characters as JSON, and saga_context_limit allows "
            f"{self.limit}; its largest keys are {self.largest}; keep large data elsewhere and "
            f"its id in the context, or raise the setting"
        )


def needs(key: str) -> str:
    """That something needs ``key``, or a path as a tuple's repr, which the context lacks."""
    path = key.startswith("(")
    hint = f"; a path into a value is a tuple, {tuple(key.split('.'))!r}" if "." in key else ""
    found = key if path else repr(key)
    return f"needs {found}, which the context does not hold{'' if path else hint}"


class MissingInput(SagaError, LookupError):
    """A step needs a key which the context does not hold."""

    def __init__(self, key: str, step: str, task: str) -> None:
        super().__init__(key, step, task)
        self.key, self.step, self.task = key, step, task

    def __str__(self) -> str:
        return (
            f"step {self.step!r} cannot run: task {self.task!r} {needs(self.key)}; pass it at the "
            f"start, return it from an earlier step, or map it with inputs="
        )


class BadStepResult(SagaError, TypeError):
    """A step returned what cannot be used as its result."""

    def __init__(self, step: str, expected: str, found: str) -> None:
        super().__init__(step, expected, found)
        self.step, self.expected, self.found = step, expected, found

    def __str__(self) -> str:
        return f"step {self.step!r}: expected {self.expected}, found {self.found}"


class UnsendableStep(SagaError):
    """Celery cannot make a message of a step, now or later; the cause is ``__cause__``."""

    def __init__(self, step: str, task: str, cause: str) -> None:
        super().__init__(step, task, cause)
        self.step, self.task, self.cause = step, task, cause

    def __str__(self) -> str:
        return f"step {self.step!r}: task {self.task!r} cannot be sent: {self.cause}"


class StoreError(SagaError):
    """The store did not do what was asked; the driver's error is ``__cause__``."""


class StoreUnavailable(StoreError):
    """The store does not answer now; the same call may succeed later."""


class OutboxRefused(StoreError):
    """The store could not send a message along with a checkpoint; nothing was saved."""


class UnreadableCheckpoint(StoreError):
    """What the store keeps of a saga cannot be read; what was read is ``__cause__``, if any.

    Args:
        saga_id: the saga.
        field: of its record, such as ``head``, ``s0`` (its first step) or ``context['total']``;
            empty: it is not known which.
        cause: what is wrong with it.
    """

    def __init__(self, saga_id: str, field: str, cause: str) -> None:
        super().__init__(saga_id, field, cause)
        self.saga_id, self.field, self.cause = saga_id, field, cause

    def __str__(self) -> str:
        where = f"field {self.field!r} of its record" if self.field else "its record"
        return (
            f"saga {self.saga_id!r}: {where} cannot be read: {self.cause}; mend it in the store, "
            f"or delete the saga: SagaManager.repository.delete()"
        )


class UnsupportedCheckpoint(UnreadableCheckpoint):
    """A checkpoint was written by a newer version of this library."""

    field = "head"
    cause = "a newer version wrote it"

    def __init__(self, saga_id: str, found: int, supported: int) -> None:
        super(UnreadableCheckpoint, self).__init__(saga_id, found, supported)
        self.saga_id, self.found, self.supported = saga_id, found, supported

    def __str__(self) -> str:
        return (
            f"saga {self.saga_id!r} was saved with checkpoint version {self.found}, this "
            f"celery_saga reads up to {self.supported}: upgrade celery_saga in this process"
        )
