"""Exceptions as records, and records as exceptions again, for those who wait for a saga.

A checkpoint holds the dotted name of an exception's class and its text. Both are the user's own
code, which may raise or give anything: a record is made of whatever was raised.

Back again, as Celery does with results, a class counts if this process has imported it already and
if it is an exception: nothing is imported and nothing else is called because of what a checkpoint
says.
"""

from __future__ import annotations

import ast
import contextlib
import sys
from traceback import format_exception_only
from typing import TYPE_CHECKING, Any

from celery_saga.core.state import Failure, SagaStatus, StepStatus
from celery_saga.errors import SagaError

if TYPE_CHECKING:
    from celery_saga.core.execution import SagaExecution

#: Characters of an error's text that are kept, and of the name of its class.
FAILURE_TEXT, FAILURE_TYPE = 2000, 500

#: Stands for the module of a class that does not say which it is.
_NO_MODULE = "<unknown>"


def recorded(error: BaseException, step: str) -> Failure:
    """What is kept of an exception that a step raised; never raises, and is never large."""
    return Failure(class_name(type(error)), text_of(error), step)


def class_name(cls: type) -> str:
    """``module.qualname``; what a metaclass says instead does not count."""
    module, name = (_of_type(cls, key) for key in ("__module__", "__qualname__"))
    return _plain(f"{module if isinstance(module, str) else _NO_MODULE}.{name}", FAILURE_TYPE)


def class_names(error: BaseException) -> set[str]:
    """The names of an exception's class and of all its bases."""
    return {class_name(cls) for cls in _of_type(type(error), "__mro__")}


def _of_type(cls: type, key: str) -> Any:
    try:
        return type.__dict__[key].__get__(cls)
    except AttributeError:  # of a class whose __module__ was deleted
        return None


def text_of(error: BaseException) -> str:
    """``str(error)``, cut; if there is none, a text that says why."""
    try:
        text = str(error)
    except BaseException as trouble:
        # It is the user's code, and what it raises must not take the place of the report.
        return f"<no text: its __str__ raised {class_name(type(trouble))}>"
    return _plain(text, FAILURE_TEXT)


def _plain(text: str, limit: int) -> str:
    """A text that every store takes: of no more characters, and valid Unicode without NUL."""
    text = str.__getitem__(text, slice(limit))  # a subclass of str may do anything here
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")[:limit]


def cause_of(execution: SagaExecution) -> Exception | None:
    """What a saga failed of. If an undo failed for good it is that, and its ``__context__`` is what
    the saga had failed of before.
    """
    error = exception_of(execution.error) if execution.error else None
    for step in execution.steps if execution.status is SagaStatus.STUCK else ():
        if step.status is StepStatus.COMPENSATION_FAILED and step.compensation_error is not None:
            compensation = exception_of(step.compensation_error)
            compensation.__context__ = error
            return compensation
    return error


def exception_of(failure: Failure) -> Exception:
    """The exception that was recorded: of its class where that is known, else of a namesake.

    Its arguments were not recorded. If the class makes no exception with that text out of the text
    alone, or one that Python cannot print, a subclass of the same name stands in, of which the
    attributes are missing.
    """
    found = _class_of(failure.type)
    for arguments in _arguments(failure.message) if found else ():
        # The class is a user's, and may need other arguments, refuse these, or make anything.
        with contextlib.suppress(BaseException):
            error: Exception = found(*arguments)
            if issubclass(type(error), found) and _shows(error, failure.message):
                return error
    # A class of which nobody may make heirs, or not in this way.
    with contextlib.suppress(BaseException):
        base = found or (Exception if "." in failure.type else SagaError)
        error = _stand_in(base, failure)
        if _shows(error, failure.message):
            return error
    return _stand_in(Exception, failure)


def _shows(error: BaseException, text: str) -> bool:
    """Whether Python prints an exception, with that text."""
    return str(error) == text and bool(repr(error) and format_exception_only(type(error), error))


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
        "__repr__": lambda self: f"{name}({failure.message!r})",  # the class's may need attributes
    }
    make: Any = type
    return make(name or "Failure", (base,), members)(failure.message)  # type: ignore[no-any-return]
