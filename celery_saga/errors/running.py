"""What goes wrong with one run of a saga."""

from __future__ import annotations

from typing import Any

from celery_saga.errors.preparing import SagaError


class AbortSaga(SagaError):
    """Raise it in a step to end the saga's way forward at once, without retries."""


class BlockedByUndo(AbortSaga):
    """The undo of a step was committed before the step: a barrier keeps it from happening.

    The step has left nothing behind, and no further attempt of it can.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"{self.key} was undone before it happened, and has no effect any more"


class BarrierPassedTwice(AbortSaga):
    """A step went through the barrier of one database twice; what came second was not done."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"{self.key} has been through this barrier already, in the same run of its body: "
            f"do all of its work in one transaction, or make two steps of it"
        )


class SagaExecutionException(SagaError):
    """Something about one run of a saga."""


class SagaExecutionNotFoundException(SagaExecutionException, LookupError):
    """No saga has this id, or its checkpoint has expired."""

    def __init__(self, saga_id: str) -> None:
        super().__init__(saga_id)
        self.saga_id = saga_id

    def __str__(self) -> str:
        return f"no saga with id {self.saga_id!r} (it never started, or its checkpoint expired)"


SagaNotFound = SagaExecutionNotFoundException


class SagaAlreadyExists(SagaExecutionException):
    """The id is taken: by another saga, by one with another context, or by any if asked so.

    Or it is there already where ``repository.store()`` would take one in.

    Args:
        saga_id: the id.
        saga_name: the name of the saga that has it.
        why: in words, what tells that saga from the one that was to start.
    """

    def __init__(self, saga_id: str, saga_name: str, why: str = "") -> None:
        super().__init__(saga_id, saga_name, why)
        self.saga_id, self.saga_name, self.why = saga_id, saga_name, why

    def __str__(self) -> str:
        return f"saga id {self.saga_id!r} is taken by a run of saga {self.saga_name!r}{self.why}"


class IllegalSagaId(SagaExecutionException, ValueError):
    """What was given cannot be the id of a saga.

    Args:
        what: how to call it.
        saga_id: what was given.
    """

    def __init__(self, what: str, saga_id: Any) -> None:
        super().__init__(what, saga_id)
        self.what, self.saga_id = what, saga_id

    def __str__(self) -> str:
        return (
            f"{self.what}: expected 1 to 64 letters, digits, '.', '_' or '-', "
            f"found {self.saga_id!r}"
        )


class SagaPastPivot(SagaExecutionException):
    """The pivot was dispatched: the saga can only go forward."""

    def __init__(self, saga_id: str, pivot: str) -> None:
        super().__init__(saga_id, pivot)
        self.saga_id, self.pivot = saga_id, pivot

    def __str__(self) -> str:
        return f"saga {self.saga_id!r} cannot be cancelled: its pivot {self.pivot!r} was dispatched"


class SagaNotActionable(SagaExecutionException):
    """An operator's verb does not fit the saga's status; nothing changed."""

    def __init__(self, saga_id: str, verb: str, status: str) -> None:
        super().__init__(saga_id, verb, status)
        self.saga_id, self.verb, self.status = saga_id, verb, status

    def __str__(self) -> str:
        return f"saga {self.saga_id!r} is {self.status}: {self.verb} does not apply"


class SagaStepExecutionException(SagaExecutionException):
    """Something about one step of a run."""


class SagaRollbackExecutionException(SagaExecutionException):
    """The effects of a failed saga could not all be undone."""


class SagaFailedExecutionException(SagaExecutionException):
    """A saga ended without completing.

    Args:
        saga_id: the saga.
        step: the name of the step that failed; empty if none did.
        cause: type and text of the error, as recorded.
    """

    _ending = "failed"

    def __init__(self, saga_id: str, step: str = "", cause: str = "") -> None:
        super().__init__(saga_id, step, cause)
        self.saga_id, self.step, self.cause = saga_id, step, cause

    @property
    def exception(self) -> BaseException | None:
        """What the step raised, which is ``__cause__`` too; see :mod:`celery_saga.failures`.

        ``None`` if this error has travelled since: neither pickle nor JSON takes a cause along.
        """
        return self.__cause__

    def __str__(self) -> str:
        where = f" at step {self.step!r}" if self.step else ""
        cause = f": {self.cause}" if self.cause else ""
        return f"saga {self.saga_id!r} {self._ending}{where}{cause}"


class SagaFailedCommitCallbackException(SagaFailedExecutionException):
    """The Minos framework's second phase failed; there is none here, and nothing raises this."""


class SagaFailedExecutionStepException(SagaFailedExecutionException, SagaStepExecutionException):
    """A saga ended without completing, as one of its steps failed or it was cancelled."""


class SagaCompensated(SagaFailedExecutionStepException):
    """The saga failed or was cancelled, and all of its effects were undone."""

    _ending = "was compensated after it failed"


class SagaStuck(SagaFailedExecutionStepException, SagaRollbackExecutionException):
    """The saga can go neither forward nor back without a person."""

    _ending = "is stuck"
