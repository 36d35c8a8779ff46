"""An execution as plain data and back: the form in which stores keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from celery_saga.errors import UnsupportedCheckpoint
from celery_saga.records import (
    Claim,
    Direction,
    Failure,
    SagaStatus,
    SagaStepExecution,
    StepStatus,
    evolved,
)

if TYPE_CHECKING:
    from celery_saga.execution import SagaExecution

#: Version of the checkpoint's form; a higher one is refused, never guessed at.
SCHEMA_VERSION = 1

_NESTED = {"claim": Claim, "error": Failure, "undo_error": Failure, "unwind": Failure}
_ENUMS = {"outstanding": Direction, "direction": Direction}

#: What JSON has as it is.
_PLAIN = (str, int, float, bool)


@lru_cache(maxsize=32)
def _defaults(cls: Any, leave_out: frozenset[str]) -> tuple[tuple[str, Any], ...]:
    """Names and default values of a record's fields."""
    return tuple(
        (
            spec.name,
            spec.default_factory() if spec.default_factory is not MISSING else spec.default,
        )
        for spec in fields(cls)
        if spec.name not in leave_out
    )


def record_to_dict(record: Any, *, leave_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A record's fields as plain data, without those that have their default value."""
    cls: Any = type(record)
    held, out = record.__dict__, {}
    for name, default in _defaults(cls, leave_out):
        value = held[name]
        if value is default or value == default:
            continue
        out[name] = value if type(value) in _PLAIN else _plain(value)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Enum):
        return value.value
    return record_to_dict(value) if is_dataclass(value) else value


def _fields_from(data: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(data)
    for name, cls in _NESTED.items():
        if out.get(name) is not None:
            out[name] = cls(**out[name])
    for name, enum in _ENUMS.items():
        if out.get(name) is not None:
            out[name] = enum(out[name])
    return out


def step_from_dict(data: Mapping[str, Any]) -> SagaStepExecution:
    """The reverse of :func:`record_to_dict` for a step."""
    out = _fields_from(data)
    if "status" in out:
        out["status"] = StepStatus(out["status"])
    if "reported" in out:
        out["reported"] = tuple(out["reported"])
    unknown = out.keys() - _STEP.__dict__.keys()
    if unknown:
        raise TypeError(f"a step's record has no {', '.join(sorted(unknown))}")
    return evolved(_STEP, **out)


#: A step of which nothing is known but that it is there.
_STEP = SagaStepExecution("")


HEAD_LEAVES_OUT = frozenset({"plan", "values", "steps", "history", "revision", "saga_id"})


def head_to_dict(execution: SagaExecution) -> dict[str, Any]:
    """The execution without its bulky parts (plan, context, steps, history)."""
    return {"version": SCHEMA_VERSION, **record_to_dict(execution, leave_out=HEAD_LEAVES_OUT)}


def head_from_dict(saga_id: str, head: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of :func:`head_to_dict`: the execution's fields.

    Raises:
        UnsupportedCheckpoint: a newer version of this library wrote it.
    """
    data = _fields_from(head)
    version = data.pop("version", 0)
    if version > SCHEMA_VERSION:
        raise UnsupportedCheckpoint(saga_id, version, SCHEMA_VERSION)
    data["status"] = SagaStatus(data.get("status", SagaStatus.CREATED))
    return data
