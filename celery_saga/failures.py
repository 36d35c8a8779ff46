"""Recorded failures as exceptions again, for whoever waits for a saga.

A checkpoint holds the dotted name of an exception's class and its text. As Celery does with
results, a class counts if this process has imported it already and if it is an exception: nothing
is imported and nothing else is called because of what a checkpoint says.
"""

from __future__ import annotations

import ast
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from celery_saga.errors import SagaError
from celery_saga.records import Failure, SagaStatus, StepStatus

if TYPE_CHECKING:
    from celery_saga.execution import SagaExecution


def cause_of(execution: SagaExecution) -> Exception | None:
    """What a saga failed of. If an undo failed for good it is that, and its ``__context__`` is what
    the saga had failed of before.
    """
    error = exception_of(execution.error) if execution.error else None
    for step in execution.steps if execution.status is SagaStatus.STUCK else ():
        if step.status is StepStatus.COMPENSATION_FAILED and step.undo_error is not None:
            undo = exception_of(step.undo_error)
            undo.__context__ = error
            return undo
    return error


def exception_of(failure: Failure) -> Exception:
    """The exception that was recorded: of its class where that is known, else of a namesake.

    Its arguments were not recorded. If the class makes no exception with that text out of the text
    alone, a subclass of the same name stands in, of which the attributes are missing.
    """
    found = _class_of(failure.type)
    error: Exception
    for arguments in _arguments(failure.message) if found else ():
        # The class is a user's, and may need other arguments or refuse these.
        with contextlib.suppress(Exception):
            error = found(*arguments)
            if str(error) == failure.message:
                return error
    return _stand_in(found or (Exception if "." in failure.type else SagaError), failure)


def _class_of(name: str) -> Any:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:length]))
        if found is not None:
            for part in parts[length:]:
                found = getattr(found, part, None)
            return found if isinstance(found, type) and issubclass(found, Exception) else None
    return None


def _arguments(text: str) -> list[tuple[Any, ...]]:
    """The text alone, nothing, and for a KeyError and its like what the text is the repr of."""
    tries: list[tuple[Any, ...]] = [(text,), ()] if text else [(), (text,)]
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        tries.append((ast.literal_eval(text),))
    return tries


def _stand_in(base: type[Exception], failure: Failure) -> Exception:
    module, _, name = failure.type.rpartition(".")
    members = {
        "__module__": module or "celery_saga.errors",
        "__new__": lambda cls, *args: Exception.__new__(cls, *args),
        "__init__": lambda self, *args: None,
        "__str__": lambda self: failure.message,
    }
    make: Any = type
    try:
        return make(name or "Failure", (base,), members)(failure.message)  # type: ignore[no-any-return]
    except Exception:  # a class of which nobody may make heirs, or not in this way
        return make(name or "Failure", (Exception,), members)(failure.message)  # type: ignore[no-any-return]
