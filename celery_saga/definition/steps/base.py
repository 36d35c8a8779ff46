"""Steps of a saga, and those whose action and compensation are tasks or functions of a project."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from celery_saga.definition.operations import (
    STEP_OPTIONS,
    SagaOperation,
    operation_of,
    owned,
    with_declared,
)
from celery_saga.definition.options import check_step_options
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
    from typing_extensions import Self, Unpack

    from celery_saga.definition.contexts import ContextModel
    from celery_saga.definition.operations import (
        CallOptions,
        ForEachOptions,
        LocalOptions,
        NestedOptions,
        PairedOptions,
        ParallelOptions,
        RemoteOptions,
        Target,
        WaitOptions,
    )


class StepOwner(Protocol):
    """What a step requires of the saga that it belongs to, or that it has inside."""

    @property
    def name(self) -> str: ...

    @property
    def own_name(self) -> str | None: ...

    @property
    def committed(self) -> bool: ...

    @property
    def model(self) -> ContextModel | None: ...

    @property
    def steps(self) -> tuple[SagaStep, ...]: ...

    def local_step(self, step: Any = None, **options: Unpack[LocalOptions]) -> LocalSagaStep: ...

    def remote_step(self, step: Any = None, **options: Unpack[RemoteOptions]) -> RemoteChain: ...

    def parallel_step(self, *branches: Any, **options: Unpack[ParallelOptions]) -> SagaStep: ...

    def conditional_step(self, *, name: str | None = None) -> ConditionalStep: ...

    def for_each(self, over: Any, body: Any, **options: Unpack[ForEachOptions]) -> SagaStep: ...

    def nested_step(self, saga: StepOwner, **options: Unpack[NestedOptions]) -> SagaStep: ...

    def wait_for(
        self,
        signal: str,
        timeout: float | timedelta | None = None,
        on_timeout: Any = None,
        **options: Unpack[WaitOptions],
    ) -> SagaStep: ...

    def sleep_step(self, seconds: float | timedelta, *, name: str | None = None) -> SagaStep: ...

    def validate(self) -> None: ...

    def commit(self) -> Any: ...


class SagaStep(ABC):
    """A step of a saga. Its methods delegate to the saga, so that a definition reads as a chain."""

    #: The options of the step; of all kinds of steps they may have ``name``.
    options: Mapping[str, Any] = MappingProxyType({})

    def __init__(self) -> None:
        self._saga: StepOwner | None = None
        #: The line of the user's code that made it.
        self.line = users_line()

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

    @property
    def name(self) -> str:
        """The step's name: the given name, or that of its kind."""
        return str(self.options.get("name") or type(self).__name__)

    @property
    def children(self) -> Sequence[SagaStep]:
        """The steps inside of it."""
        return ()

    def part(self, place: int) -> str:
        """What one of its children is called in texts."""
        return f"part number {place + 1}"

    def operations(self) -> Iterator[tuple[str, SagaOperation]]:
        """What it calls itself, each with its role; what its children call is theirs."""
        yield from ()

    def attach(self, saga: StepOwner) -> None:
        """Make the step, and all steps inside of it, part of ``saga``."""
        if self._saga is not None:
            raise AlreadyOnSagaException("the step belongs to a saga already: make a new one")
        self._saga = saga
        for child in self.children:
            child.attach(saga)

    def _check_open(self) -> None:
        if self._saga is not None and self._saga.committed:
            raise AlreadyCommittedException(
                f"saga {self._saga.name!r} is committed: its steps cannot change"
            )

    @abstractmethod
    def validate(self) -> None:
        """Raise if the step is not complete."""

    def _complete(self) -> StepOwner:
        self.validate()
        return self.saga

    def local_step(self, step: Any = None, **options: Unpack[LocalOptions]) -> LocalSagaStep:
        """Check this step and add the next one to its saga."""
        return self._complete().local_step(step, **options)

    def remote_step(self, step: Any = None, **options: Unpack[RemoteOptions]) -> RemoteChain:
        """Check this step and add one of another service to its saga."""
        return self._complete().remote_step(step, **options)

    def parallel_step(self, *branches: Any, **options: Unpack[ParallelOptions]) -> SagaStep:
        """Check this step and add parallel branches to its saga."""
        return self._complete().parallel_step(*branches, **options)

    def conditional_step(self, *, name: str | None = None) -> ConditionalStep:
        """Check this step and add a choice to its saga."""
        return self._complete().conditional_step(name=name)

    def for_each(self, over: Any, body: Any, **options: Unpack[ForEachOptions]) -> SagaStep:
        """Check this step and add a loop to its saga."""
        return self._complete().for_each(over, body, **options)

    def nested_step(self, saga: StepOwner, **options: Unpack[NestedOptions]) -> SagaStep:
        """Check this step and add another saga as the next step."""
        return self._complete().nested_step(saga, **options)

    def wait_for(
        self,
        signal: str,
        timeout: float | timedelta | None = None,
        on_timeout: Any = None,
        **options: Unpack[WaitOptions],
    ) -> SagaStep:
        """Check this step and add a wait for a signal to its saga."""
        return self._complete().wait_for(signal, timeout, on_timeout, **options)

    def sleep_step(self, seconds: float | timedelta, *, name: str | None = None) -> SagaStep:
        """Check this step and add a wait for a time to its saga."""
        return self._complete().sleep_step(seconds, name=name)

    def commit(self) -> Any:
        """Check this step and commit its saga, which is returned."""
        return self._complete().commit()


class ConditionalStep(SagaStep):
    """What a choice offers to the chain in which it is defined."""

    @abstractmethod
    def if_then(
        self,
        condition: Target,
        saga: Any,
        parameters: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> ConditionalStep:
        """Add an alternative, which is taken if its condition is the first true one."""

    @abstractmethod
    def else_then(self, saga: Any) -> ConditionalStep:
        """Set the alternative that is taken if no condition is true."""


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
        self.commit_task: SagaOperation | None = None
        self.options = MappingProxyType({})
        #: What it does not take of the tasks that are declared with its own.
        self._declined: set[str] = set()
        #: What it has of them: a task that the step gives itself replaces it.
        self._declared: set[str] = set()
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
    ) -> Self:
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
    ) -> Self:
        """Set the compensation of the step; ``parameters`` are constants for it.

        It replaces the one that is declared with the step's task.

        Raises:
            MultipleOnFailureException: it was set before.
            AlreadyCommittedException: the saga is committed.
        """
        self._check_open()
        if self.compensation is not None and "compensation" not in self._declared:
            raise MultipleOnFailureException("the step has a compensation already")
        self._declared.discard("compensation")
        self.compensation, _ = operation_of(callback, parameters, dict(options))
        return self

    def on_commit(
        self,
        callback: Target,
        parameters: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Self:
        """Set what is run for the step when all steps of the saga have ended.

        Nothing is rolled back any more then. It is tried until it succeeds; its result is dropped.

        Raises:
            DefinitionError: it was set before, or has ``returns=``.
            AlreadyCommittedException: the saga is committed.
        """
        self._check_open()
        if self.commit_task is not None and "on_commit" not in self._declared:
            raise DefinitionError("the step has an on_commit() already")
        if "returns" in options:
            raise DefinitionError("on_commit: what it returns is not stored: remove returns=")
        self._declared.discard("on_commit")
        self.commit_task, _ = operation_of(callback, parameters, dict(options))
        return self

    def _execute(
        self, callback: Any, parameters: Mapping[str, Any] | None, options: dict[str, Any]
    ) -> None:
        allowed = STEP_OPTIONS | {"compensation", "on_commit"}
        action, about = operation_of(callback, parameters, options, allowed)
        later = {key: about.pop(key, None) for key in ("compensation", "on_commit")}
        self._declined = {key for key in later if key in options and options[key] is None}
        self._set_options(about)
        self.action = action
        known = {"compensation": self.compensation, "on_commit": self.commit_task}
        for key, add in (("compensation", self.on_failure), ("on_commit", self.on_commit)):
            if later[key] is not None and (known[key] is None or key in options):
                add(later[key])
                self._declared |= {key} - options.keys()

    def _set_options(self, options: Mapping[str, Any]) -> None:
        for key in options:
            if key not in STEP_OPTIONS:
                raise DefinitionError(
                    f"unknown option {key!r} of a step without an action: expected one of "
                    f"{sorted(STEP_OPTIONS)}"
                )
        check_step_options(options)
        self.options = owned({**self.options, **options})

    def completed(self, found: Callable[[Any], Any]) -> Self:
        """Return the step with what ``@saga_step`` declared about tasks that it names by a text.

        Args:
            found: returns the declared task or function for a task that a step names, or ``None``.

        Raises:
            DefinitionError: an option that was declared has a wrong value.
        """
        assert self.action is not None
        made = copy(self)
        made.action, about = with_declared(self.action, found)
        own = {"compensation": self.compensation, "on_commit": self.commit_task}
        for key, given in own.items():
            task = about.pop(key, None)
            if given is None and task is not None and key not in self._declined:
                given = operation_of(task, None, {})[0]
            own[key] = given and with_declared(given, found)[0]
        made.compensation, made.commit_task = own["compensation"], own["on_commit"]
        if about:
            made._set_options({**about, **self.options})
        return made

    @property
    def name(self) -> str:
        """The step's name: the given name, or the name of its task."""
        given = self.options.get("name")
        return str(given) if given else (self.action.label if self.action else "?")

    def operations(self) -> Iterator[tuple[str, SagaOperation]]:
        """Its action, its compensation and its commit task."""
        if self.action is not None:
            yield "action", self.action
        if self.compensation is not None:
            yield "compensation", self.compensation
        if self.commit_task is not None:
            yield "commit", self.commit_task

    def validate(self) -> None:
        """Raise if the step has no action."""
        if self.action is None and self.compensation is None and self.commit_task is None:
            raise EmptySagaStepException("the step has no callback: give it one with .on_execute()")
        if self.action is None:
            raise UndefinedOnExecuteException(
                f"the step has a {'compensation' if self.compensation else 'commit task'} and no "
                f"action: give it one with .on_execute()"
            )

    def __repr__(self) -> str:
        arrow = f" <-> {self.compensation.label}" if self.compensation else ""
        arrow += f", on commit {self.commit_task.label}" if self.commit_task else ""
        pivot = " (pivot)" if self.options.get("pivot") else ""
        return f"{self.name}{arrow}{pivot}"


class RemoteChain(LocalSagaStep):
    """What a remote step offers to the chain in which it is defined."""

    on_success: Callable[..., RemoteChain]
    on_error: Callable[..., RemoteChain]
