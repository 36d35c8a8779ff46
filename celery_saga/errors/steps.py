"""Errors of one step: its inputs, its result, its message, its barrier."""

from __future__ import annotations

from typing import Any

from celery_saga.errors.base import AbortSaga, SagaError


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


class ContextInvalid(SagaError, ValueError):
    """A context does not fit the model of its saga, or what a step wrote does not.

    Args:
        model: the model, as ``module.Class``.
        problems: in words, each with its field; no values are in it.
    """

    def __init__(self, model: str, problems: str) -> None:
        super().__init__(model, problems)
        self.model, self.problems = model, problems

    def __str__(self) -> str:
        return f"the context does not fit {self.model}: {self.problems}"


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


class SagaResponseException(SagaError):
    """Another service refused the request of a remote step, or failed with it."""


class SagaParticipantError(SagaError):
    """Raise it in a task with ``@saga_participant`` to refuse the request: status ERROR.

    Args:
        content: what the handler gets as ``response.content()``: a text, or other JSON data.
    """

    @property
    def content(self) -> Any:
        """The first argument; without one an empty text."""
        return self.args[0] if self.args else ""


class UnknownTarget(SagaError, LookupError):
    """A request of a remote step has a target that no setting and no route explains."""

    def __init__(self, target: str, known: str) -> None:
        super().__init__(target, known)
        self.target, self.known = target, known

    def __str__(self) -> str:
        return (
            f"SagaRequest: unknown target {self.target!r}: neither a task of this app nor a route "
            f"in task_routes has that name, nor has saga_targets (names there: "
            f"{self.known or 'none'}); add it, as in "
            f"saga_targets = {{{self.target!r}: ('module.task', 'queue')}}"
        )


class JoinConflict(SagaError, ValueError):
    """Two branches of a parallel step wrote different values of one key.

    Args:
        key: the key of the context.
        branch, other: the names of the branches.
    """

    def __init__(self, key: str, branch: str, other: str) -> None:
        super().__init__(key, branch, other)
        self.key, self.branch, self.other = key, branch, other

    @property
    def branches(self) -> tuple[str, str]:
        """The names of both branches."""
        return self.branch, self.other

    def __str__(self) -> str:
        names = f"{self.branch!r} and {self.other!r}"
        return f"branches {names} wrote different values of {self.key!r}"


class BadItems(SagaError, ValueError):
    """A loop goes over something that is not a list, or a list that is too long.

    Args:
        path: its place, such as ``context['order']['lines']``.
        found: what is there: ``nothing there``, ``a value of type int``, ``1001 items``.
        limit: of the items; 0: it is not a list.
    """

    def __init__(self, path: str, found: str, limit: int = 0) -> None:
        super().__init__(path, found, limit)
        self.path, self.found, self.limit = path, found, limit

    def __str__(self) -> str:
        if not self.limit:
            return f"expected a list at {self.path}, found {self.found}"
        return (
            f"expected at most {self.limit} items at {self.path}, found {self.found}: start a saga "
            f"for each part of the list"
        )


class SignalTimeout(SagaError):
    """A signal was not sent in time.

    Args:
        signal: its name; in loops with the number of the item: ``approved[7]``.
        timeout: of the wait, in seconds.
    """

    def __init__(self, signal: str, timeout: float) -> None:
        super().__init__(signal, timeout)
        self.signal, self.timeout = signal, timeout

    def __str__(self) -> str:
        seconds = str(self.timeout).removesuffix(".0")
        return f"signal {self.signal!r} was not sent within {seconds} s"


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
