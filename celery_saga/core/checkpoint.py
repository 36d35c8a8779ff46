"""An execution as plain data and back: the form in which stores keep it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

from celery_saga.core.state import (
    Attempt,
    AttemptOutcome,
    Claim,
    Direction,
    Failure,
    OperatorRequest,
    Request,
    SagaStatus,
    SagaStepExecution,
    Signal,
    StepRef,
    StepStatus,
)
from celery_saga.errors import UnsupportedCheckpoint

T = TypeVar("T")

#: Version of the checkpoint's form; a higher one is refused, never guessed at.
SCHEMA_VERSION = 1

#: What JSON has as it is.
_PLAIN = (str, int, float, bool)

Readers = Mapping[str, Callable[[Any], Any]]


def _failure(data: Mapping[str, Any]) -> Failure:
    return Failure(**{**data, "arguments": tuple(data.get("arguments", ()))})


def _claim(data: Mapping[str, Any]) -> Claim:
    return Claim(**data)


def _request(data: Mapping[str, Any]) -> Request:
    return Request(**data)


def _attempts(rows: Sequence[Sequence[Any]]) -> tuple[Attempt, ...]:
    return tuple(
        Attempt(number, Direction(letter), node, instance, begun, ended, AttemptOutcome(how), error)
        for number, letter, node, instance, begun, ended, how, error in rows
    )


def _row(attempt: Attempt) -> list[Any]:
    """An attempt without the names of its fields, which would be half of a step's record."""
    return [each.value if isinstance(each, Enum) else each for each in vars(attempt).values()]


def _refs(texts: Sequence[str]) -> tuple[StepRef, ...]:
    return tuple(map(StepRef.of, texts))


def _requests(found: Sequence[Sequence[Any]]) -> tuple[OperatorRequest, ...]:
    return tuple(OperatorRequest(*each) for each in found)


def _signals(found: Sequence[Sequence[Any]]) -> tuple[Signal, ...]:
    return tuple(Signal(name, payload, tuple(tokens)) for name, payload, *tokens in found)


@lru_cache(maxsize=1024)  # the journals of most runs are equal at the same step
def journal_to_text(journal: tuple[tuple[int, ...], ...]) -> str:
    """Paths as one short text: ``0-41,43,2.0.3``; of a saga without branches it hardly grows."""
    runs: list[list[int] | str] = []
    for path in journal:
        last = runs[-1] if runs else None
        if len(path) > 1:
            runs.append(".".join(map(str, path)))
        elif isinstance(last, list) and last[1] + 1 == path[0]:
            last[1] = path[0]
        else:
            runs.append([path[0], path[0]])
    return ",".join(
        run if isinstance(run, str) else f"{run[0]}-{run[1]}" if run[0] < run[1] else str(run[0])
        for run in runs
    )


@lru_cache(maxsize=1024)
def journal_of_text(text: str) -> tuple[tuple[int, ...], ...]:
    """The reverse of :func:`journal_to_text`."""
    found: list[tuple[int, ...]] = []
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        if last:
            found += [(index,) for index in range(int(first), int(last) + 1)]
        else:
            found.append(tuple(map(int, first.split("."))))
    return tuple(found)


#: How fields are read that JSON does not hold as they are.
_OF_STEP: Readers = {
    "status": StepStatus,
    "claim": _claim,
    "effect_tokens": tuple,
    "returned": tuple,
    "log": _attempts,
    "request": _request,
    "requests": tuple,
    "error": _failure,
    "compensation_error": _failure,
}
_OF_HEAD: Readers = {
    "status": SagaStatus,
    "direction": Direction,
    "active": _refs,
    "journal": journal_of_text,
    "last_requests": _requests,
    "signals": _signals,
    "rollback_reason": _failure,
    "held": _failure,
    "error": _failure,
}


@lru_cache(maxsize=32)
def _defaults(cls: Any, leave_out: frozenset[str] = frozenset()) -> Mapping[str, Any]:
    """Names and default values of a record's fields."""
    return {
        spec.name: spec.default_factory() if spec.default_factory is not MISSING else spec.default
        for spec in fields(cls)
        if spec.name not in leave_out
    }


def record_to_dict(record: Any, *, leave_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A record's fields as plain data, without those that have their default value."""
    cls: Any = type(record)
    values = record.__dict__
    return {
        name: value if type(value) in _PLAIN else _plain(value)
        for name, default in _defaults(cls, leave_out).items()
        # Most fields have the very object that is their default.
        if (value := values[name]) is not default and value != default
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_row(each) if isinstance(each, Attempt) else each for each in value]
    if isinstance(value, Enum):
        return value.value
    return record_to_dict(value) if is_dataclass(value) else value


def _read(data: Mapping[str, Any], readers: Readers) -> dict[str, Any]:
    return {
        name: value if value is None or name not in readers else readers[name](value)
        for name, value in data.items()
    }


def record_from(cls: type[T], found: dict[str, Any], what: str) -> T:
    """A record of these fields.

    Raises:
        TypeError: it has no such field; ``what`` names the record.
    """
    kind: Any = cls
    known = _defaults(kind).keys()
    if not found.keys() <= known:
        raise TypeError(f"{what} has no {', '.join(sorted(found.keys() - known))}")
    return cls(**found)


def step_from_dict(data: Mapping[str, Any], **more: Any) -> SagaStepExecution:
    """The reverse of :func:`record_to_dict` for a step; ``more`` are fields that it left out."""
    return record_from(SagaStepExecution, {**_read(data, _OF_STEP), **more}, "a step's record")


#: What is apart from the head, and what has a form of its own in it.
HEAD_LEAVES_OUT = frozenset(
    {"plan", "values", "steps", "history", "revision", "saga_id"}
    | {"active", "journal", "last_requests"}
)


def head_to_dict(execution: Any) -> dict[str, Any]:
    """A ``SagaExecution`` without its bulky parts (plan, context, steps, history)."""
    head = {"version": SCHEMA_VERSION, **record_to_dict(execution, leave_out=HEAD_LEAVES_OUT)}
    if execution.active:
        head["active"] = list(map(str, execution.active))
    if execution.journal:
        head["journal"] = journal_to_text(execution.journal)
    if execution.last_requests:
        head["last_requests"] = list(map(list, execution.last_requests))
    if execution.signals:
        head["signals"] = [[it.name, it.payload, *it.tokens] for it in execution.signals]
    return head


def head_from_dict(saga_id: str, head: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of :func:`head_to_dict`: the execution's fields.

    Raises:
        UnsupportedCheckpoint: a newer version of this library wrote it.
    """
    version = head.get("version", 0)
    if version > SCHEMA_VERSION:
        raise UnsupportedCheckpoint(saga_id, version, SCHEMA_VERSION)
    data = _read(head, _OF_HEAD)
    data.pop("version", None)
    return data
