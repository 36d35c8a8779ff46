"""Errors of the set-up and of stores."""

from __future__ import annotations

from celery_saga.errors.base import SagaError


class SetupError(SagaError):
    """The app or the store is not set up to run sagas; the text says what to change."""


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
