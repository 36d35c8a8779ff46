"""An execution as plain data and back: the form in which stores keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from typing import TYPE_CHECKING, Any

from celery_saga.errors import UnsupportedCheckpoint
from celery_saga.records import (
    Claim,
    Direction,
    Failure,
    SagaStatus,
    SagaStepExecution,
    StepStatus,
)

if TYPE_CHECKING:
    from celery_saga.execution import SagaExecution

#: Version of the checkpoint's form; a higher one is refused, never guessed at.
SCHEMA_VERSION = 1

_NESTED = {"claim": Claim, "error": Failure, "undo_error": Failure, "unwind": Failure}
_ENUMS = {"outstanding": Direction, "direction": Direction}


def record_to_dict(record: Any, *, leave_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A record's fields as plain data, without those that have their default value."""
    out: dict[str, Any] = {}
    for spec in fields(record):
        value = getattr(record, spec.name)
        default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
        if spec.name in leave_out or value == default:
            continue
        nested = spec.name in _NESTED
        out[spec.name] = record_to_dict(value) if nested else _plain(value)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value.value if isinstance(value, Enum) else value


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
    out["status"] = StepStatus(out.get("status", StepStatus.PENDING))
    out["reported"] = tuple(out.get("reported", ()))
    return SagaStepExecution(**out)


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
