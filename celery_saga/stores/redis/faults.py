"""Which field of a saga's record cannot be read, and why.

The fields are checked one by one only after reading has failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from celery_saga.core.checkpoint import head_from_dict, record_from, step_from_dict
from celery_saga.core.context.codec import JSON
from celery_saga.core.execution import Claim, Note, SagaExecution, StepRef
from celery_saga.core.plan import Plan
from celery_saga.errors import UnreadableCheckpoint, UnsupportedCheckpoint

#: Fields that every record has, the one first that may explain all others.
_NEEDED = ("head", "rev", "plan")


def fault_of(saga_id: str, record: Mapping[bytes, bytes]) -> UnreadableCheckpoint | None:
    """The error that names the first field of a record which cannot be read.

    Args:
        record: the fields as they are; empty where no such saga exists.

    Returns:
        ``None`` if all of it can be read.
    """
    fields = {name.decode(errors="replace"): text for name, text in record.items()}
    if not fields:
        return None
    for name in (*_NEEDED, *sorted(fields.keys() - set(_NEEDED))):
        if name not in fields:
            return UnreadableCheckpoint(saga_id, name, "it is missing")
        try:
            _check(saga_id, name, fields[name].decode())
        except UnsupportedCheckpoint as error:
            return error
        except Exception as error:
            shown = f"context[{name[2:]!r}]" if name.startswith("c:") else name
            return UnreadableCheckpoint(saga_id, shown, f"{type(error).__name__}: {error}")
    return None


def _check(saga_id: str, name: str, text: str) -> None:
    """Raise what reading a field raises."""
    if name == "head":
        fields = {"saga_id": saga_id, "plan": None, **head_from_dict(saga_id, json.loads(text))}
        record_from(SagaExecution, fields, "an execution")
        return
    for pattern, read in _READERS.items():
        if re.fullmatch(pattern, name):
            read(text)
            return


def _ref(text: str) -> None:
    ref, _, retries = text.partition(" ")
    int(retries)
    StepRef.of(ref)


#: How fields are read, by their names; others are texts.
_READERS: Mapping[str, Callable[[str], Any]] = {
    r"rev|z": int,
    r"plan": Plan.from_text,
    r"h\d+": lambda text: [Note(**note) for note in json.loads(text)],
    r"s\d+(\.\d+)*": lambda text: step_from_dict(json.loads(text), name="", retries=0, claim=None),
    r"k\d+(\.\d+)*": lambda text: Claim(**json.loads(text)),
    r"o\d+(\.\d+)*": _ref,
    r"(?s:c:.*)": JSON.loads,
}
