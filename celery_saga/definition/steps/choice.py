"""A step that takes the first of its alternatives whose condition is true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery_saga.definition.operations import SagaOperation, operation_of, owned
from celery_saga.definition.steps.base import ConditionalStep, SagaStep, StepOwner
from celery_saga.definition.steps.groups import branch_of, is_saga
from celery_saga.errors import (
    DefinitionError,
    EmptySagaStepException,
    MultipleElseThenException,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from celery_saga.definition.operations import CallOptions, Target


class ConditionalSagaStep(ConditionalStep):
    """A choice: conditions are evaluated in order, and the first true one decides.

    Each is evaluated once, as a task, and the answer is kept. If none is true, the last alternative
    is taken, or nothing is done.

    Args:
        name: its name; by default ``choice``.
    """

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__()
        self.conditions: list[SagaOperation] = []
        self._alternatives: list[SagaStep] = []
        self._otherwise: SagaStep | None = None
        self.options = owned({"name": name})

    def if_then(
        self,
        condition: Target,
        saga: Target | SagaStep | StepOwner,
        parameters: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> ConditionalSagaStep:
        """Add an alternative, which is taken if its condition is the first true one.

        Args:
            condition: a function that takes the context, a task, or a task's name. An error of it
                fails the step.
            saga: a committed saga, or a single step, task or function.
            parameters: constants for the condition.
            options: how the condition is called, as for :meth:`Saga.local_step`.

        Raises:
            AlreadyCommittedException: the saga is committed.
            DefinitionError: something else cannot be a condition or an alternative.
        """
        self._check_open()
        _check_condition(condition)
        operation, _ = operation_of(condition, parameters, dict(options))
        if operation.options.get("returns") is not None and "returns" in options:
            raise DefinitionError("if_then: a condition's answer is not stored: remove returns=")
        alternative = self._added(saga)
        self.conditions.append(operation)
        self._alternatives.append(alternative)
        return self

    def else_then(self, saga: Target | SagaStep | StepOwner) -> ConditionalSagaStep:
        """Set the alternative that is taken if no condition is true.

        Raises:
            MultipleElseThenException: it was set before.
            AlreadyCommittedException: the saga is committed.
        """
        self._check_open()
        if self._otherwise is not None:
            raise MultipleElseThenException("the choice has an else_then() already")
        self._otherwise = self._added(saga)
        return self

    def _added(self, saga: Any) -> SagaStep:
        added = branch_of(saga)
        if self._saga is not None:
            added.attach(self._saga)
        return added

    @property
    def otherwise(self) -> SagaStep | None:
        """The alternative that is taken if no condition is true."""
        return self._otherwise

    @property
    def name(self) -> str:
        """The given name, or ``choice``."""
        return str(self.options["name"] or "choice")

    @property
    def children(self) -> Sequence[SagaStep]:
        """The alternatives, the last one included."""
        rest = () if self._otherwise is None else (self._otherwise,)
        return (*self._alternatives, *rest)

    def part(self, place: int) -> str:
        """An alternative is called by its number."""
        return f"alternative number {place + 1}"

    def operations(self) -> Iterator[tuple[str, SagaOperation]]:
        """The conditions."""
        for number, condition in enumerate(self.conditions, start=1):
            yield f"condition_{number}", condition

    def validate(self) -> None:
        """Raise if no alternative has a condition, or one is not complete."""
        if not self.conditions:
            raise EmptySagaStepException(
                "the choice has no alternative with a condition: give it one with .if_then()"
            )
        for alternative in self.children:
            alternative.validate()

    def __repr__(self) -> str:
        return f"{self.name}({' | '.join(map(repr, self.children))})"


def _check_condition(given: Any) -> None:
    """Refuse what cannot be a condition. It reads only the type: a lazy task stays lazy."""
    kind = type(given)
    if is_saga(given) or issubclass(kind, SagaStep):
        raise DefinitionError(
            "if_then: expected the condition first and then the alternative, found "
            f"a {kind.__name__} as the condition"
        )
    if not callable(given) and not issubclass(kind, (str, SagaOperation)):
        raise DefinitionError(
            f"if_then: expected a condition, which is a function of the context, a task or a "
            f"task's name and is called in each run; found {given!r}"
        )
