"""The steps of a saga, as its builder keeps them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from celery_saga.definition.operations import (
    STEP_OPTIONS,
    SagaOperation,
    operation_of,
    owned,
    with_declared,
)
from celery_saga.definition.source_lines import users_line
from celery_saga.errors import (
    AlreadyCommittedException,
    AlreadyOnSagaException,
    DefinitionError,
    EmptySagaStepException,
    MultipleOnExecuteException,
    MultipleOnFailureException,
    SagaNotDefinedException,
    UndefinedOnExecuteException,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from celery_saga.definition.operations import CallOptions, LocalOptions, PairedOptions, Target

    #: What a saga takes as a step.
    Step: TypeAlias = Target | "SagaStep"


class StepOwner(Protocol):
    """What a step requires of the saga that it belongs to."""

    @property
    def name(self) -> str: ...

    @property
    def committed(self) -> bool: ...

    def local_step(
        self, step: Step | None = None, **options: Unpack[LocalOptions]
    ) -> LocalSagaStep: ...

    def commit(self) -> Any: ...


class SagaStep(ABC):
    """A step of a saga. Its methods delegate to the saga, so that a definition reads as a chain."""

    def __init__(self) -> None:
        self._saga: StepOwner | None = None

    @property
    def saga(self) -> StepOwner:
        """The saga that the step belongs to.

        Raises:
            SagaNotDefinedException: it does not belong to a saga.
        """
        if self._saga is None:
            raise SagaNotDefinedException(
                "the step does not belong to a saga: make it with saga.*_step()"
            )
        return self._saga

    def attach(self, saga: StepOwner) -> None:
        """Make the step part of ``saga``."""
        if self._saga is not None:
            raise AlreadyOnSagaException("the step belongs to a saga already: make a new one")
        self._saga = saga

    def _check_open(self) -> None:
        if self._saga is not None and self._saga.committed:
            raise AlreadyCommittedException(
                f"saga {self._saga.name!r} is committed: its steps cannot change"
            )

    @abstractmethod
    def validate(self) -> None:
        """Raise if the step is not complete."""

    def local_step(
        self, step: Step | None = None, **options: Unpack[LocalOptions]
    ) -> LocalSagaStep:
        """Check this step and add the next one to its saga."""
        self.validate()
        return self.saga.local_step(step, **options)

    def commit(self) -> Any:
        """Check this step and commit its saga, which is returned."""
        self.validate()
        return self.saga.commit()


class LocalSagaStep(SagaStep):
    """A step whose action and compensation are tasks or functions of this project.

    Args:
        on_execute: its action: a task, a task's name, or a function.
        on_failure: its compensation.
        options: as for :meth:`Saga.local_step`.
    """

    def __init__(
        self,
        on_execute: Target | None = None,
        on_failure: Target | None = None,
        **options: Unpack[LocalOptions],
    ) -> None:
        super().__init__()
        self.action: SagaOperation | None = None
        self.compensation: SagaOperation | None = None
        self.options: Mapping[str, Any] = MappingProxyType({})
        #: Whether it takes the compensation that is declared with its task.
        self._paired = True
        #: The line of the user's code that made it.
        self.line = users_line()
        if on_execute is not None:
            given: dict[str, Any] = dict(options)
            self._execute(on_execute, given.pop("parameters", None), given)
        elif options:
            self._set_options(dict(options))
        if on_failure is not None:
            self.on_failure(on_failure)

    def on_execute(
        self,
        callback: Target,
        parameters: Mapping[str, Any] | None = None,
        **options: Unpack[PairedOptions],
    ) -> LocalSagaStep:
        """Set the action of the step; ``parameters`` are constants for it.

        Raises:
            MultipleOnExecuteException: it was set before.
            AlreadyCommittedException: the saga is committed.
        """
        self._check_open()
        if self.action is not None:
            raise MultipleOnExecuteException("the step has an action already")
        self._execute(callback, parameters, dict(options))
        return self

    def on_failure(
        self,
        callback: Target,
        parameters: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> LocalSagaStep:
        """Set the compensation of the step; ``parameters`` are constants for it.

        Raises:
            MultipleOnFailureException: it was set before.
            AlreadyCommittedException: the saga is committed.
        """
        self._check_open()
        if self.compensation is not None:
            raise MultipleOnFailureException("the step has a compensation already")
        self.compensation, _ = operation_of(callback, parameters, dict(options))
        return self

    def _execute(
        self, callback: Any, parameters: Mapping[str, Any] | None, options: dict[str, Any]
    ) -> None:
        allowed = STEP_OPTIONS | {"compensation"}
        action, about = operation_of(callback, parameters, options, allowed)
        self._paired = "compensation" not in options or options["compensation"] is not None
        compensation = about.pop("compensation", None)
        self._set_options(about)
        self.action = action
        if compensation is not None:
            self.on_failure(compensation)

    def _set_options(self, options: Mapping[str, Any]) -> None:
        for key in options:
            if key not in STEP_OPTIONS:
                raise DefinitionError(
                    f"unknown option {key!r} of a step without an action: expected one of "
                    f"{sorted(STEP_OPTIONS)}"
                )
        on_lost = options.get("on_lost")
        if on_lost not in (None, "rerun", "undo"):
            raise DefinitionError(f"on_lost: expected 'rerun' or 'undo', found {on_lost!r}")
        exhausted = options.get("on_exhausted")
        if exhausted not in (None, "compensate", "pause"):
            raise DefinitionError(
                f"on_exhausted: expected 'compensate' or 'pause', found {exhausted!r}"
            )
        for key in ("pivot", "retriable", "read_only"):
            if options.get(key) not in (None, True, False):
                raise DefinitionError(f"{key}: expected True or False, found {options[key]!r}")
        self.options = owned({**self.options, **options})

    def completed(self, found: Callable[[Any], Any]) -> LocalSagaStep:
        """Return the step with what ``@saga_step`` declared about tasks that it names by a text.

        Args:
            found: returns the declared task or function for a task that a step names, or ``None``.

        Raises:
            DefinitionError: an option that was declared has a wrong value.
        """
        assert self.action is not None
        made = copy(self)
        made.action, about = with_declared(self.action, found)
        compensation = about.pop("compensation", None)
        compensation = compensation if self._paired else None
        if about:
            made._set_options({**about, **self.options})
        if self.compensation is not None or compensation is not None:
            given = self.compensation or operation_of(compensation, None, {})[0]
            made.compensation, _ = with_declared(given, found)
        return made

    @property
    def name(self) -> str:
        """The step's name: the given name, or the name of its task."""
        given = self.options.get("name")
        return str(given) if given else (self.action.label if self.action else "?")

    def validate(self) -> None:
        """Raise if the step has no action."""
        if self.action is None and self.compensation is None:
            raise EmptySagaStepException("the step has no callback: give it one with .on_execute()")
        if self.action is None:
            raise UndefinedOnExecuteException(
                "the step has a compensation and no action: give it one with .on_execute()"
            )

    def __repr__(self) -> str:
        arrow = f" <-> {self.compensation.label}" if self.compensation else ""
        pivot = " (pivot)" if self.options.get("pivot") else ""
        return f"{self.name}{arrow}{pivot}"


def names_of(steps: Sequence[LocalSagaStep], labels: Sequence[str]) -> list[str]:
    """Return one name per step; a repeated task gets a number from its second use on."""
    given = {step.options["name"] for step in steps if step.options.get("name")}
    names: list[str] = []
    for number, (step, label) in enumerate(zip(steps, labels, strict=True), start=1):
        # A lambda has no useful name, and the name is part of idempotency keys.
        label = f"step_{number}" if label == "<lambda>" else label
        base = name = label.replace("/", "_")
        count = 1
        while name in names or (name in given and not step.options.get("name")):
            count += 1
            name = f"{base}_{count}"
        names.append(name)
    return names
