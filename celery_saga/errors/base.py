"""The base of all errors, and the one that steps raise."""

from __future__ import annotations


class SagaError(Exception):
    """Base of all errors of this library."""


SagaException = SagaError


class AbortSaga(SagaError):
    """Raise it in a step to start the saga's rollback at once, without retries."""
