"""Contexts that are models of pydantic 2. Pydantic itself is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

from celery_saga.core.context.codec import check
from celery_saga.definition.contexts.model import ContextModel, Problem
from celery_saga.errors import UnserializableValue


class PydanticModel(ContextModel):
    """A pydantic model. In a context, its fields have their own names, not their aliases."""

    @cached_property
    def lists_all_keys(self) -> bool:
        return bool(self.cls.model_config.get("extra") == "forbid")

    @cached_property
    def fields(self) -> frozenset[str]:
        return frozenset(self.cls.model_fields)

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """The names under which pydantic takes fields, where these are others."""
        specs = self.cls.model_fields.items()
        found = {name: spec.validation_alias or spec.alias for name, spec in specs}
        return {name: alias for name, alias in found.items() if isinstance(alias, str)}

    @cached_property
    def _names(self) -> dict[str, str]:
        return {alias: name for name, alias in self._aliases.items()}

    def named(self, values: dict[str, Any]) -> dict[str, Any]:
        return {self._names.get(key, key): value for key, value in values.items()}

    def given(self, instance: Any) -> dict[str, Any]:
        extra = instance.model_extra or {}
        found = {key: getattr(instance, key) for key in instance.model_fields_set - extra.keys()}
        return {**found, **extra}

    def validate(self, values: Mapping[str, Any]) -> tuple[Any, list[Problem]]:
        aliased = {self._aliases.get(key, key): value for key, value in values.items()}
        try:
            return self.cls.model_validate(aliased), []
        except ValueError as error:  # pydantic's ValidationError is one
            errors: Any = getattr(error, "errors", None)
            if errors is None:
                raise
            found = errors(include_url=False, include_context=False, include_input=False)
            return None, [self._problem(each) for each in found]

    def _problem(self, error: Mapping[str, Any]) -> Problem:
        first, *inside = map(str, error["loc"] or ("",))
        path, text = ".".join(inside), str(error["msg"])
        missing = error["type"] == "missing" and not inside
        text = f"at {path}: {text}" if path else text
        return Problem(self._names.get(first, first), text, missing)

    def known(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if self.cls.model_config.get("extra") == "allow":
            return dict(values)
        return super().known(values)

    def plain(self, instance: Any) -> dict[str, Any]:
        declared = self.fields.union(instance.model_extra or ())  # without computed fields
        dump = partial(instance.model_dump, by_alias=False)
        found = {key: it for key, it in dump(mode="python").items() if key in declared}
        for key, value in found.items():
            try:
                check(value)
            except UnserializableValue:  # an enum, a set and the like: pydantic knows their JSON
                found[key] = dump(mode="json", include={key})[key]
        return found
