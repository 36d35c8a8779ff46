"""Every exception of the library, in one tree.

::

    SagaError (= SagaException)
      DefinitionError (ValueError)                    a mistake in a saga, found at commit or start
        EmptySagaException                            no steps
        SagaNotCommittedException                     commit() is missing
        AlreadyCommittedException                     changed after commit()
        SagaStepException
          SagaNotDefinedException                     a step that does not belong to a saga
          EmptySagaStepException                      no callback at all
          UndefinedOnExecuteException                 a compensation without an action
          AlreadyOnSagaException                      a step added twice
          MultipleOnExecuteException
          MultipleOnFailureException
          MultipleElseThenException
      SetupError                                      the app or the store is not set up for sagas
      UnserializableValue (ValueError)                not JSON-serializable; names the key path
      ContextTooLarge (ValueError)                    more than saga_context_limit allows
      MissingInput (LookupError)                      a step needs a key that the context lacks
      BadStepResult (TypeError)                       a step returned what is not a valid result
      UnsendableStep                                  Celery cannot make a message of a step
      StoreError
        StoreUnavailable                              the store does not answer now
        PublishRefused                                 the store may not write to the broker
        UnreadableCheckpoint                          a saga's record is damaged
          UnsupportedCheckpoint                       written by a newer version
      AbortSaga                                       raised by a step: no retries, roll back
        BlockedByCompensation                         a barrier: its compensation ran before it
        BarrierPassedTwice                            one step entered a barrier twice
      SagaExecutionException
        SagaExecutionNotFoundException (LookupError)  no such saga id (= SagaNotFound)
        SagaAlreadyExists
        IllegalSagaId (ValueError)                    not a text that can be an id
        SagaPastPivot                                 too late to cancel
        SagaNotActionable                             a request that the saga's status rules out
        SagaStepExecutionException                    one step of a run
        SagaRollbackExecutionException                the rollback does not end by itself
        SagaFailedExecutionException                  raised by SagaResult.get(), manager.run()
          SagaFailedCommitCallbackException           of the Minos framework; never raised here
          SagaFailedExecutionStepException (SagaStepExecutionException)
            SagaCompensated                           rolled back
            SagaStuck (SagaRollbackExecutionException)  needs operator intervention

The names that end in ``Exception`` are those of the Minos framework's saga package, so that code
written for it keeps its ``except`` clauses.

The constructor arguments are ``args``, and ``__str__`` makes the text. An error therefore survives
pickling and the JSON form in which Celery stores it.
"""

from __future__ import annotations

from typing import Any


class SagaError(Exception):
    """Base of all errors of this library."""


SagaException = SagaError


class DefinitionError(SagaError, ValueError):
    """A saga is defined incorrectly; nothing was started."""


class DefinitionWarning(UserWarning):
    """A saga can be started, but its definition causes trouble in some failure."""


class EmptySagaException(DefinitionError):
    """The saga has no steps."""


class SagaNotCommittedException(DefinitionError):
    """The saga is not committed."""


class AlreadyCommittedException(DefinitionError):
    """A committed saga is immutable."""


class SagaStepException(DefinitionError):
    """One step is defined incorrectly."""


class SagaNotDefinedException(SagaStepException):
    """The step does not belong to a saga."""


class EmptySagaStepException(SagaStepException):
    """The step has no callback."""


class UndefinedOnExecuteException(SagaStepException):
    """The step has a compensation and no action."""


class AlreadyOnSagaException(SagaStepException):
    """The step belongs to a saga already."""


class MultipleOnExecuteException(SagaStepException):
    """The step's action was given twice."""


class MultipleOnFailureException(SagaStepException):
    """The step's compensation was given twice."""


class MultipleElseThenException(SagaStepException):
    """The last alternative of a choice was given twice."""


class SetupError(SagaError):
    """The app or the store is not set up to run sagas; the text says what to change."""


class UnserializableValue(SagaError, ValueError):
    """A value does not survive JSON: it is not decoded to an equal value of the same type.

    Args:
        path: its place, such as ``context['order']['lines'][2]``.
        found: the value that was found.
        advice: the value to use instead.
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
    """Return the text that a key, or a path as a tuple's repr, is required and missing."""
    if key.startswith("("):
        return f"needs {key}, which the context does not hold"
    hint = f"; a path into a value is a tuple, {tuple(key.split('.'))!r}" if "." in key else ""
    return f"needs {key!r}, which the context does not hold{hint}"


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
    """A step returned a value that cannot be used as its result."""

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
    """The store did not carry out a request; the driver's error is ``__cause__``."""


class StoreUnavailable(StoreError):
    """The store is unavailable; the same call may succeed later."""


class PublishRefused(StoreError):
    """The store could not publish a message with a checkpoint; nothing was saved."""


class UnreadableCheckpoint(StoreError):
    """A stored checkpoint cannot be read; ``__cause__`` is the error of reading, if any.

    Args:
        field: of its record, such as ``head``, ``s0`` (its first step) or ``context['total']``;
            empty: it is not known which.
        cause: what is wrong with the field.
    """

    def __init__(self, saga_id: str, field: str, cause: str) -> None:
        super().__init__(saga_id, field, cause)
        self.saga_id, self.field, self.cause = saga_id, field, cause

    def __str__(self) -> str:
        where = f"field {self.field!r} of its record" if self.field else "its record"
        return (
            f"saga {self.saga_id!r}: {where} cannot be read: {self.cause}; repair it in the store, "
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


class AbortSaga(SagaError):
    """Raise it in a step to start the saga's rollback at once, without retries."""


class BlockedByCompensation(AbortSaga):
    """A step's compensation was committed before the step: the barrier blocks its attempts."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"{self.key} was compensated before it ran, and has no effect any more"


class BarrierPassedTwice(AbortSaga):
    """A step entered the barrier of one database twice; the second part was not done."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"{self.key} has entered this barrier already, in the same run of its body: "
            f"do all of its work in one transaction, or make two steps of it"
        )


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
    """

    def __init__(self, saga_id: str, saga_name: str, why: str = "") -> None:
        super().__init__(saga_id, saga_name, why)
        self.saga_id, self.saga_name, self.why = saga_id, saga_name, why

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
    """The pivot was dispatched: the saga can only go forward."""

    def __init__(self, saga_id: str, pivot: str) -> None:
        super().__init__(saga_id, pivot)
        self.saga_id, self.pivot = saga_id, pivot

    def __str__(self) -> str:
        return f"saga {self.saga_id!r} cannot be cancelled: its pivot {self.pivot!r} was dispatched"


class SagaNotActionable(SagaExecutionException):
    """An operator's request does not apply to the saga's status; nothing changed."""

    def __init__(self, saga_id: str, verb: str, status: str) -> None:
        super().__init__(saga_id, verb, status)
        self.saga_id, self.verb, self.status = saga_id, verb, status

    def __str__(self) -> str:
        return f"saga {self.saga_id!r} is {self.status}: {self.verb} does not apply"


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
