"""What options of steps take: values that Celery would refuse only when a message is sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from celery_saga.errors import DefinitionError


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_priority(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _is_time(value: Any) -> bool:
    return _is_seconds(value) or isinstance(value, datetime)


#: Celery's own options of a message that a step may set, under Celery's names: what each takes.
_MESSAGE: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "queue": (_is_text, "the name of a queue"),
    "exchange": (_is_text, "the name of an exchange"),
    "routing_key": (_is_text, "a text"),
    "priority": (_is_priority, "a whole number from 0 to 255"),
    "expires": (_is_time, "seconds above 0, or a datetime"),
    "compression": (_is_text, "the name of a compression such as 'gzip'"),
    "time_limit": (_is_seconds, "seconds above 0"),
    "soft_time_limit": (_is_seconds, "seconds above 0"),
}
MESSAGE_OPTIONS = frozenset(_MESSAGE)

#: Options of steps that are one of two words.
_WORDS = {"on_lost": ("rerun", "compensate"), "on_exhausted": ("compensate", "pause")}

#: Options that projects know from elsewhere -> what a saga has for them.
_INSTEAD = {
    "args": "inputs= and parameters={...} give a step its arguments",
    "autoretry_for": "the task itself has it, @app.task(autoretry_for=...)",
    "countdown": "put sleep_step(seconds) before the step, or start with apply_async(countdown=)",
    "eta": "put sleep_step(seconds) before the step, or start with apply_async(eta=)",
    "headers": "start with apply_async(headers=), which holds for all steps",
    "ignore_result": "returns=False drops the result",
    "kwargs": "inputs= and parameters={...} give a step its arguments",
    "link": "the saga has on_completed()",
    "link_error": "the saga has on_compensated() and on_stuck()",
    "max_retries": "the task itself has it, or give retriable=True and max_attempts=",
    "on_failure": "it is compensation=, or .on_failure() on the step",
    "retry_policy": "give retriable=True, max_attempts= and retry_backoff=",
    "serializer": "steps are always sent as JSON",
    "timeout": "it is time_limit=",
}


def check_message_options(where: str, options: Mapping[str, Any]) -> None:
    """Refuse values of message options of a wrong type; ``None`` leaves an option unset.

    Args:
        where: how the error names the step.

    Raises:
        DefinitionError: the text names the option and what it takes.
    """
    for name, value in options.items():
        if name in _MESSAGE and value is not None:
            fits, expected = _MESSAGE[name]
            if not fits(value):
                raise DefinitionError(f"{where}: {name}: expected {expected}, found {value!r}")


def refuse_unknown(what: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Refuse options that ``what`` does not have.

    Raises:
        DefinitionError: the text names the options that there are.
    """
    names = sorted(known)
    for option in options:
        if option not in names:
            raise DefinitionError(
                f"{what}: unknown option {option!r}{hint(option, names)}: expected one of {names}"
            )


def hint(option: str, known: Iterable[str]) -> str:
    """What was probably meant by an unknown option, in brackets; empty: it is not known."""
    if option in _INSTEAD:
        return f" ({_INSTEAD[option]})"
    found = get_close_matches(option, sorted(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def check_step_options(options: Mapping[str, Any]) -> None:
    """Refuse values of a step's own options that mean nothing.

    Raises:
        DefinitionError: it names the option, and what is expected.
    """
    for key, (one, other) in _WORDS.items():
        if options.get(key) not in (None, one, other):
            found = f"found {options[key]!r}"
            raise DefinitionError(f"{key}: expected {one!r} or {other!r}, {found}")
    for key in ("pivot", "retriable", "read_only"):
        if options.get(key) not in (None, True, False):
            raise DefinitionError(f"{key}: expected True or False, found {options[key]!r}")
