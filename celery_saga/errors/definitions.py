"""Mistakes in a saga, found when it is committed or started."""

from __future__ import annotations

from celery_saga.errors.base import SagaError


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


class MultipleOnSuccessException(SagaStepException):
    """What handles a remote step's success was given twice."""


class MultipleOnErrorException(SagaStepException):
    """What handles a remote step's refusal was given twice."""


class MultipleElseThenException(SagaStepException):
    """The last alternative of a choice was given twice."""
