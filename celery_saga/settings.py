"""The settings of an app's sagas: typed, checked and read once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from difflib import get_close_matches
from itertools import repeat
from math import isfinite
from typing import Any

from celery_saga.errors import SetupError

log = logging.getLogger("celery_saga")

#: What all names of settings begin with in the configuration of a Celery app.
PREFIX = "saga_"

#: Similarity, 0 to 1, from which on an unknown name counts as a misspelt one.
TYPO = 0.8

_ATTRIBUTE = "_celery_saga_settings"

#: The value of a setting that is not in a mapping, where ``None`` is a value.
_ABSENT = object()


@dataclass(frozen=True)
class Settings:
    """The settings of one app. Each is ``saga_<name>`` in the app's configuration.

    *Seconds* are an ``int``, a ``float`` or a ``timedelta``. A number as text, as in environment
    variables, is refused, because Celery does not convert such texts either.

    Attributes:
        store_url: str or None; where checkpoints are kept: ``redis://``, ``rediss://``,
            ``redis+socket://`` or ``memory://``. None: in the result backend.
        key_prefix: str; all Redis keys begin with it.
        result_expires: seconds, 0 or more; how long sagas that ended are kept. 0: for ever. None:
            as Celery's setting ``result_expires`` says.
        max_redeliveries: int, 0 or more; how often a step whose outcome is unknown is run again.
        compensation_max_attempts: int, 1 or more; attempts of a compensation before its failure is
            final, unless its step says otherwise. None: no limit.
        unknown_task_grace: seconds, 0 or more; how long a task that no worker has is sent again.
        store_timeout: seconds, 0 or more; how long the report of a step is repeated while the
            store is unavailable.
        heartbeat: seconds, more than 0; the time between two heartbeats of a worker.
        heartbeat_ttl: seconds, more than ``heartbeat``; a worker without a heartbeat for that long
            counts as dead. Three heartbeats or more are advisable.
        sweep_limit: int, 1 or more; sagas that one sweep checks.
        context_limit: int, 1 or more; characters of all values of a context as JSON. None: no
            limit.
        context_inline_limit: int, 0 or more; characters of a context up to which a step that takes
            the whole context gets it in its message. A larger one is sent as a reference.
        store_step_results: bool; each step's result is stored as a Celery result too.
        remote_timeout: seconds, more than 0; how long a remote step waits for the reply to its
            request, unless the step says otherwise.
        targets: a mapping of names that requests of remote steps may have as their target; each to
            the name of a task, or to ``(task, queue)``.
        send_events: whether events of sagas are sent on Celery's event bus; a worker that sends
            events of tasks sends them in any case.
        mask_keys: a word or a list of words, not empty; values under keys that contain one of them
            are masked wherever they are shown. None: the default words.
    """

    store_url: str | None = None
    key_prefix: str = "saga:"
    result_expires: float | None = None
    max_redeliveries: int = 3
    compensation_max_attempts: int | None = 5
    unknown_task_grace: float = 600.0
    store_timeout: float = 60.0
    heartbeat: float = 2.0
    heartbeat_ttl: float = 6.0
    sweep_limit: int = 1000
    context_limit: int | None = 4 * 1024 * 1024
    context_inline_limit: int = 64 * 1024
    store_step_results: bool = False
    remote_timeout: float = 3600.0
    targets: Mapping[str, tuple[str, str]] | None = None
    send_events: bool = False
    mask_keys: tuple[str, ...] | None = None

    @classmethod
    def of(cls, app: Any) -> Settings:
        """Return the settings of a Celery app; a change to one of them reads them again.

        ``result_expires`` is resolved: it is never None.

        Raises:
            SetupError: a setting is not valid; the text names each one, what is
                expected and what was found.
        """
        conf = app.conf
        given = _given(conf)
        found: tuple[Any, tuple[Any, ...], Settings] | None = getattr(app, _ATTRIBUTE, None)
        if found is not None and found[0] is conf and found[1] == given:
            return found[2]
        settings, problems = cls.read(conf)
        if problems:
            raise SetupError("; ".join(problems.values()))
        for name, nearest in misspelt(conf).items():
            log.warning("the setting %s is unknown and has no effect: is %s meant?", name, nearest)
        setattr(app, _ATTRIBUTE, (app.conf, _given(app.conf), settings))
        return settings

    @classmethod
    def read(cls, conf: Any) -> tuple[Settings, dict[str, str]]:
        """Return the settings in a configuration, and the wrong ones, each with its error.

        A setting that is not valid has its default value.
        """
        values: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for name, check in _CHECKS.items():
            source, value = f"{PREFIX}{name}", conf.get(PREFIX + name, DEFAULTS[PREFIX + name])
            if name == "result_expires" and value is None:
                source = name
                value = _as_celery_reads(conf.get(source))
            try:
                values[name] = check(value)
            except ValueError as error:
                problems[source] = f"{source}: expected {error}, found {_shown(value)}"
        settings = cls(**values)
        if settings.heartbeat_ttl <= settings.heartbeat and not problems:
            problems["saga_heartbeat_ttl"] = (
                f"saga_heartbeat_ttl: expected more than saga_heartbeat, which is "
                f"{settings.heartbeat:g} seconds, found {settings.heartbeat_ttl:g}: a live worker "
                f"would count as dead between two heartbeats; three heartbeats are advisable"
            )
        return settings, problems


#: Defaults; each may be overridden in the app's configuration like any setting of Celery's.
DEFAULTS: dict[str, Any] = {PREFIX + each.name: each.default for each in fields(Settings)}


def misspelt(conf: Any) -> dict[str, str]:
    """Return unknown names in a configuration that resemble settings, with the nearest one.

    Only names with the prefix of settings are compared: the configuration may be a module, which
    has names for other purposes too.
    """
    conf.finalize()
    prefix: str = conf.prefix or ""
    found: dict[str, str] = {}
    for name in {key for each in conf.maps[:-1] for key in each if isinstance(key, str)}:
        bare = name.lower().removeprefix(prefix.lower())
        read = name in (bare, _as_cased(bare, prefix))
        if not bare.startswith(PREFIX) or (bare in DEFAULTS and read):
            continue
        for nearest in get_close_matches(bare, DEFAULTS, 1, TYPO):
            found[name] = _as_cased(nearest, prefix)
    return found


def _as_cased(name: str, prefix: str) -> str:
    """Return a setting's name as it is written in a configuration with this namespace."""
    return prefix + name.upper() if prefix.isupper() else prefix + name


def _as_celery_reads(value: Any) -> Any:
    """Convert ``result_expires`` as Celery does; 0 and None: sagas do not expire."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = max(value, 0)
    return value or 0


def _given(conf: Any) -> tuple[Any, ...]:
    """The values that were set on the configuration itself: those that can change later."""
    get, prefix = conf.changes.get, conf.prefix or ""
    names = [*_READ, *(_as_cased(name, prefix) for name in _READ if prefix)]
    return (len(conf.maps), *map(get, names, repeat(_ABSENT)))


#: The names that are read: those of celery_saga, and Celery's that they refer to.
_READ = (*DEFAULTS, "result_expires")


def _shown(value: Any) -> str:
    """Return a value for an error text; of a text only its type, because it may be a password."""
    if isinstance(value, str):
        return f"the str {value!r}" if value.replace(".", "", 1).isdigit() else "a str"
    if value is None or isinstance(value, (bool, int, float, timedelta)):
        return repr(value)
    return f"a {type(value).__name__}"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a str")
    return value


def _url(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError("a URL as a str, or None")
    return value


def _seconds(value: Any, more: str = "0 or more") -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not isfinite(value) or value < 0 or (not value and more != "0 or more"):
        raise ValueError(f"seconds, {more}, as a number or timedelta")
    return float(value)


def _period(value: Any) -> float:
    return _seconds(value, "more than 0")


def _whole(least: int, optional: bool = False) -> Callable[[Any], int | None]:
    def checked(value: Any) -> int | None:
        if value is None and optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"an int, {least} or more{', or None: no limit' * optional}")
        return value

    return checked


def _flag(value: Any) -> bool:
    if not isinstance(value, (bool, int)) or value not in (0, 1):
        raise ValueError("True or False")
    return bool(value)


def _words(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, (list, tuple, set, frozenset)) or not all(
        isinstance(word, str) and word.strip() for word in words
    ):
        raise ValueError("a word or a list of words, or None")
    return tuple(words)


def _targets(value: Any) -> Mapping[str, tuple[str, str]] | None:
    expected = "a mapping of names to tasks, each a task's name or (task, queue), or None"
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(expected)
    found: dict[str, tuple[str, str]] = {}
    for name, target in value.items():
        parts = [target, ""] if isinstance(target, str) else target
        if not isinstance(parts, (tuple, list)) or len(parts) != 2 or not parts[0]:
            raise ValueError(expected)
        if not all(isinstance(each, str) for each in (name, *parts)):
            raise ValueError(expected)
        found[name] = (parts[0], parts[1])
    return found


#: How each setting is checked: returns its value, or raises ValueError with what is expected.
_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "store_url": _url,
    "key_prefix": _text,
    "result_expires": _seconds,
    "max_redeliveries": _whole(0),
    "compensation_max_attempts": _whole(1, optional=True),
    "unknown_task_grace": _seconds,
    "store_timeout": _seconds,
    "heartbeat": _period,
    "heartbeat_ttl": _period,
    "sweep_limit": _whole(1),
    "context_limit": _whole(1, optional=True),
    "context_inline_limit": _whole(0),
    "store_step_results": _flag,
    "remote_timeout": _period,
    "targets": _targets,
    "send_events": _flag,
    "mask_keys": _words,
}
