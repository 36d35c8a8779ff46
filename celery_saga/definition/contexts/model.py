"""What a model of a context does; its kinds say how values are validated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from celery_saga.errors import ContextInvalid


class Problem(NamedTuple):
    """Why values do not fit.

    Args:
        field: the key of the context; empty: the values do not fit together.
        text: what was expected; no values are in it, because it is recorded.
        missing: the key is not there.
    """

    field: str
    text: str
    missing: bool = False

    def __str__(self) -> str:
        return f"{self.field}: {self.text}" if self.field else self.text


class ContextModel(ABC):
    """One model.

    Args:
        cls: the user's class.
    """

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls

    @cached_property
    def name(self) -> str:
        """``module.Class``, by which plans name it."""
        return f"{self.cls.__module__}.{self.cls.__qualname__}"

    def name_on(self, main: str | None) -> str:
        """Return the name on an app whose ``main`` is given, as Celery names tasks of a script."""
        prefix = "__main__."
        own = self.name.startswith(prefix) and main
        return f"{main}.{self.name[len(prefix) :]}" if own else self.name

    @property
    @abstractmethod
    def lists_all_keys(self) -> bool:
        """Whether steps may write no keys that it does not declare."""

    @property
    @abstractmethod
    def fields(self) -> frozenset[str]:
        """The keys that it declares."""

    @abstractmethod
    def given(self, instance: Any) -> dict[str, Any]:
        """Return what the caller has set in an instance."""

    @abstractmethod
    def validate(self, values: Mapping[str, Any]) -> tuple[Any, list[Problem]]:
        """Return an instance of these values, or None and why they do not fit."""

    @abstractmethod
    def plain(self, instance: Any) -> dict[str, Any]:
        """Return the values of an instance's fields in a form that a context can hold."""

    def started(self, context: Any) -> tuple[dict[str, Any], frozenset[str]]:
        """Return the values that a saga begins with, and the keys that its caller has given.

        Defaults are among the values, except None: a key whose default is None is not there yet.

        Args:
            context: a mapping or an instance.

        Raises:
            ContextInvalid: it does not fit.
        """
        values = self.given(context) if isinstance(context, self.cls) else dict(context)
        values = self.named(values)
        instance, problems = self.validate(values)
        self._refuse(problems)
        plain = self.plain(instance)
        found = {key: plain.get(key, value) for key, value in values.items()}
        defaults = {key: value for key, value in plain.items() if value is not None}
        return {**defaults, **found}, frozenset(values)

    def named(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return values under the names of their fields; a kind may have other names for them."""
        return values

    def updated(
        self, before: Mapping[str, Any], update: Mapping[str, Any], removed: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Return what a step writes, as the model reads it.

        Only what the step writes counts: a key that is not there yet, or that another step has
        written, is not a mistake of this one.

        Args:
            before: the whole context.
            update: what the step writes; ``removed``: what it deletes.

        Raises:
            ContextInvalid: it does not fit.
        """
        deleted = set(removed)
        merged = {key: value for key, value in {**before, **update}.items() if key not in deleted}
        checked = self.fields | (update.keys() if self.lists_all_keys else set())
        instance, problems = self.validate({key: merged[key] for key in merged if key in checked})
        changed = {*update, *deleted, ""}
        self._refuse(
            each
            for each in problems
            if each.field in changed and not (each.missing and each.field not in deleted)
        )
        if instance is None:
            return dict(update)
        plain = self.plain(instance)
        return {key: plain.get(key, value) for key, value in update.items()}

    def instance(self, values: Mapping[str, Any]) -> Any:
        """Return an instance of a whole context; keys that it does not declare are left out.

        Raises:
            ContextInvalid: it does not fit.
        """
        if isinstance(values, self.cls):
            return values
        found, problems = self.validate(self.known(values))
        self._refuse(problems)
        return found

    def known(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the fields alone."""
        return {key: values[key] for key in values if key in self.fields}

    def after(self, before: Mapping[str, Any], instance: Any) -> dict[str, Any]:
        """Return the whole context after a task has changed or returned an instance.

        An instance is about its fields: other keys stay. None is written where it replaces a value.
        """
        plain = self.plain(instance).items()
        return {**before, **{key: it for key, it in plain if it is not None or key in before}}

    def _refuse(self, problems: Iterable[Problem]) -> None:
        texts = [str(each) for each in problems]
        if texts:
            raise ContextInvalid(self.name, "; ".join(texts))
