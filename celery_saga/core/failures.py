"""Records exceptions of steps, and restores them for callers that wait for a saga.

A checkpoint holds the dotted name of an exception's class and its text. Both are user code, which
may raise or return anything, so a record is made in any case.

A class is restored as Celery does it with results: only if this process has imported it already and
it is an exception. Nothing is imported and nothing else is called because of the content of a
checkpoint.
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

#: The module name of a class without a valid one.
_NO_MODULE = "<unknown>"


def recorded(error: BaseException, step: str, attempt: int = 0) -> Failure:
    """Record an exception of a step; never raises, and the record is never large."""
    return Failure(class_name(type(error)), text_of(error), step, attempt, _own_arguments(error))


def _own_arguments(error: BaseException) -> tuple[str | int | float, ...]:
    """Those of an error of this library; the class is known, and no code of a user."""
    if not _is_own(type(error)):
        return ()
    known = tuple(_plain(it, FAILURE_TEXT) if type(it) is str else it for it in error.args)
    return known if all(type(it) in (str, int, float) for it in known) else ()


def _is_own(cls: Any) -> bool:
    own = sys.modules[SagaError.__module__]
    return cls is not None and getattr(own, _of_type(cls, "__qualname__"), None) is cls


def class_name(cls: type) -> str:
    """Return ``module.qualname``, independent of the class's metaclass."""
    module, name = (_of_type(cls, key) for key in ("__module__", "__qualname__"))
    return _plain(f"{module if isinstance(module, str) else _NO_MODULE}.{name}", FAILURE_TYPE)


def class_names(error: BaseException) -> set[str]:
    """Return the names of an exception's class and of all its bases."""
    return {class_name(cls) for cls in _of_type(type(error), "__mro__")}


def _of_type(cls: type, key: str) -> Any:
    try:
        return type.__dict__[key].__get__(cls)
    except AttributeError:  # for a class whose __module__ was deleted
        return None


def text_of(error: BaseException) -> str:
    """Return ``str(error)``, shortened; if it raises, a text that says why."""
    try:
        text = str(error)
    except BaseException as trouble:
        # It is user code, and its exception must not replace the report.
        return f"<no text: its __str__ raised {class_name(type(trouble))}>"
    return _plain(text, FAILURE_TEXT)


def _plain(text: str, limit: int) -> str:
    """A text that every store accepts: shortened, and valid Unicode without NUL."""
    text = str.__getitem__(text, slice(limit))  # a subclass of str may do anything here
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")[:limit]


def cause_of(execution: SagaExecution) -> Exception | None:
    """Return the exception for which a saga failed.

    If a compensation failed finally, it is that failure, and ``__context__`` is the first one.
    """
    error = exception_of(execution.error) if execution.error else None
    for step in execution.steps if execution.status is SagaStatus.STUCK else ():
        if step.status is StepStatus.COMPENSATION_FAILED and step.compensation_error is not None:
            compensation = exception_of(step.compensation_error)
            compensation.__context__ = error
            return compensation
    return error


def exception_of(failure: Failure) -> Exception:
    """Restore a recorded exception: of its class if that is known, else of one with its name.

    Its arguments were not recorded. The class may not make an exception with that text from the
    text alone, or one that Python cannot print. Then a subclass of the same name replaces it, which
    lacks the attributes.
    """
    found = _class_of(failure.type)
    if failure.arguments and _is_own(found):
        with contextlib.suppress(TypeError):  # another version made it of others
            own: Exception = found(*failure.arguments)
            return own
    for arguments in _arguments(failure.message) if found else ():
        # The class is user code, and may require other arguments, refuse these, or return anything.
        with contextlib.suppress(BaseException):
            error: Exception = found(*arguments)
            if issubclass(type(error), found) and _shows(error, failure.message):
                return error
    # A class that does not allow subclasses, or not in this way.
    with contextlib.suppress(BaseException):
        base = found or (Exception if "." in failure.type else SagaError)
        error = _stand_in(base, failure)
        if _shows(error, failure.message):
            return error
    return _stand_in(Exception, failure)


def _shows(error: BaseException, text: str) -> bool:
    """Whether Python can print an exception, with that text."""
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
    """Arguments to try: the text alone, none, and for a KeyError the value that its text shows."""
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
        "__repr__": lambda self: f"{name}({failure.message!r})",  # its own may read attributes
    }
    make: Any = type
    return make(name or "Failure", (base,), members)(failure.message)  # type: ignore[no-any-return]
