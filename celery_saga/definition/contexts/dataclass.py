"""Contexts that are dataclasses: their values are checked against the annotations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any, get_type_hints

from celery_saga.definition.contexts.annotations import Mismatch, converted, plain_of
from celery_saga.definition.contexts.model import ContextModel, Problem
from celery_saga.errors import DefinitionError


class DataclassModel(ContextModel):
    """A dataclass. Keys that it lacks are refused at the start, where they are mistakes in writing.

    Steps may write them: what a task returns goes under the step's name if nothing else is said.
    """

    lists_all_keys = False

    @cached_property
    def _specs(self) -> dict[str, dataclasses.Field[Any]]:
        return {spec.name: spec for spec in dataclasses.fields(self.cls) if spec.init}

    @cached_property
    def fields(self) -> frozenset[str]:
        return frozenset(self._specs)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return get_type_hints(self.cls, include_extras=True)
        except Exception as error:
            raise DefinitionError(
                f"context model {self.name!r}: its annotations cannot be read ({error}); import "
                f"the names in them where the class is defined"
            ) from error

    def given(self, instance: Any) -> dict[str, Any]:
        return {name: getattr(instance, name) for name in self._specs}

    def validate(self, values: Mapping[str, Any]) -> tuple[Any, list[Problem]]:
        made: dict[str, Any] = {}
        problems = [
            Problem(key, "is not a field of it") for key in values if key not in self._specs
        ]
        for name, spec in self._specs.items():
            if name in values:
                try:
                    made[name] = converted(self._hints[name], values[name])
                except Mismatch as mismatch:
                    problems.append(Problem(name, str(mismatch)))
            elif spec.default is spec.default_factory is dataclasses.MISSING:
                problems.append(Problem(name, "is missing", missing=True))
        if problems:
            return None, problems
        try:
            return self.cls(**made), []
        except (TypeError, ValueError) as error:  # of its __post_init__
            return None, [Problem("", str(error) or type(error).__name__)]

    def plain(self, instance: Any) -> dict[str, Any]:
        return {name: plain_of(getattr(instance, name)) for name in self._specs}
