"""Models of contexts: what a saga's context holds, as a dataclass or a pydantic model."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable
from typing import Any, get_type_hints

from celery_saga.core.context.codec import JSON, Codec
from celery_saga.core.context.data import encoded
from celery_saga.definition.contexts.dataclass import DataclassModel
from celery_saga.definition.contexts.model import ContextModel as ContextModel
from celery_saga.definition.contexts.pydantic import PydanticModel
from celery_saga.errors import DefinitionError

#: The models of the sagas that this process has imported. A name in a checkpoint is looked up here
#: and nowhere else: no module is imported for it.
_known: dict[str, ContextModel] = {}


def model_of(saga: str, given: Any) -> ContextModel | None:
    """Return the model for the option ``context=`` of a saga, and register it.

    Raises:
        DefinitionError: it is neither a dataclass nor a model of pydantic 2.
    """
    if given is None:
        return None
    model = _made(given)
    if model is None:
        raise DefinitionError(
            f"saga {saga!r}: context: expected a dataclass or a model of pydantic 2, found "
            f"{given!r}"
        )
    _known[model.name] = model
    return model


def _made(given: Any) -> ContextModel | None:
    if _is_pydantic(given):
        return PydanticModel(given)
    is_dataclass = isinstance(given, type) and dataclasses.is_dataclass(given)
    return DataclassModel(given) if is_dataclass else None


def known_model(name: str) -> ContextModel | None:
    """Return the model that a plan names, if this process has imported a saga that uses it."""
    return _known.get(name)


def beginning(
    model: ContextModel | None,
    context: Any,
    mapping: Callable[[Any], dict[str, Any]],
    codec: Codec = JSON,
) -> dict[str, Any]:
    """Return the context of a start, and what of it identifies a second start as the same one.

    ``{"context": Values, "opened_with": Values or None}``, where None is all of it. Only what the
    caller has given counts, because a default may differ from call to call.

    Args:
        context: a mapping, or an instance of the model.
        mapping: checks and copies what is not an instance.

    Raises:
        ContextInvalid: it does not fit the model.
        UnserializableValue: it cannot be stored.
    """
    if model is None:
        return {"context": encoded(mapping(context), codec), "opened_with": None}
    given = context if isinstance(context, model.cls) else mapping(context)
    values, keys = model.started(given)
    opened_with = {key: values[key] for key in values if key in keys}
    return {
        "context": encoded(mapping(values), codec),
        "opened_with": encoded(opened_with, codec),
    }


def known_models() -> frozenset[str]:
    """Return the names of all models that this process knows."""
    return frozenset(_known)


def annotated_model(name: str, function: Any) -> ContextModel | None:
    """Return the model that a plan names, by the annotation of a task's first parameter."""
    try:
        hints = get_type_hints(inspect.unwrap(function))
    except Exception:  # a name in them may be there for type checkers only
        return None
    model = _made(next(iter(hints.values()), None))
    if model is not None:
        _known[name] = model
    return model


def _is_pydantic(given: Any) -> bool:
    pydantic: Any = sys.modules.get("pydantic")  # a model is there only if it was imported
    if pydantic is None or not isinstance(given, type):
        return False
    root: Any = getattr(pydantic, "RootModel", object)  # pydantic 1 has none
    return issubclass(given, pydantic.BaseModel) and not issubclass(given, root)
