"""The steps of a saga as its builder holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from celery_saga import callables
from celery_saga.binding import Inputs
from celery_saga.errors import (
    AlreadyOnSagaException,
    DefinitionError,
    EmptySagaStepException,
    MultipleOnExecuteException,
    MultipleOnFailureException,
    SagaNotDefinedException,
    UndefinedOnExecuteException,
)

if TYPE_CHECKING:
    from celery_saga.definition import SagaDefinition

T = TypeVar("T")

#: Celery's own options of a message that a step may set, under Celery's names.
MESSAGE_OPTIONS = frozenset(
    {
        "queue",
        "exchange",
        "routing_key",
        "priority",
        "expires",
        "time_limit",
        "soft_time_limit",
        "compression",
    }
)
_CALL_OPTIONS = frozenset(
    {"inputs", "returns", "context", "max_attempts", "retry_backoff", "retry_backoff_max"}
)
_STEP_OPTIONS = frozenset({"name", "pivot", "retriable", "on_lost", "compensate_on_failure"})


@dataclass(frozen=True)
class SagaOperation:
    """A task or function with the constants that it is called with.

    Args:
        callback: a Celery task, a task's name, or a plain function.
        parameters: constants, handed over as keyword arguments.
        options: how it is called: ``inputs``, ``returns``, ``context``, ``max_attempts``,
            ``retry_backoff``, ``retry_backoff_max`` and Celery's message options.
    """

    callback: Any
    parameters: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """A short name for people. Reading it of a lazy task finalizes the app."""
        if isinstance(self.callback, str):
            return self.callback.rpartition(".")[2]
        name = getattr(self.callback, "name", None) or getattr(self.callback, "__name__", "")
        return str(name).rpartition(".")[2] or repr(self.callback)


def _operation(
    callback: Any,
    parameters: Mapping[str, Any] | None,
    options: dict[str, Any],
    allowed: frozenset[str],
) -> tuple[SagaOperation, dict[str, Any]]:
    """The operation, and what of ``options`` belongs to the step."""
    base = callback if type(callback) is SagaOperation else SagaOperation(callback)
    known = _CALL_OPTIONS | MESSAGE_OPTIONS
    mine = {key: value for key, value in options.items() if key in known}
    step = {key: value for key, value in options.items() if key in allowed}
    extra = {key: value for key, value in options.items() if key not in known | allowed}
    if extra and not callables.is_plain(base.callback):
        raise DefinitionError(
            f"unknown option {sorted(extra)[0]!r} for {_shown(base.callback)}: expected one of "
            f"{sorted(known | allowed)}; constants for the task go into parameters={{...}}"
        )
    merged = {**base.parameters, **(parameters or {}), **extra}
    return replace(base, parameters=merged, options={**base.options, **mine}), step


def _shown(target: Any) -> str:
    return repr(target) if isinstance(target, str) else f"a {type(target).__name__}"


#: What ``@saga_step`` was told, by the identity of the task or function. Nothing is written on the
#: task: a shared task has one object for every app, and touching a lazy one finalizes its app.
_declared: dict[int, tuple[Any, dict[str, Any]]] = {}


def saga_step(target: Any = None, *, compensation: Any = None, **options: Any) -> Any:
    """Keep a step's pairing with its task, so that many sagas use it.

    Put it above ``@app.task`` or ``@shared_task``; it returns the task unchanged and does not touch
    it. On a plain function it also makes the function known to the workers that import it.

    Args:
        compensation: the task or function that undoes it.
        options: as for :meth:`Saga.local_step`.
    """

    def declare(task: T) -> T:
        _operation(task, None, dict(options), _STEP_OPTIONS)  # finds an unknown option at once
        _declared[id(task)] = (task, {"compensation": compensation, **options})
        functions: tuple[Any, ...] = (task, compensation)
        for function in functions:
            if callables.is_plain(function):
                name = callables.wire_name(function, None)
                if name is not None:
                    callables.register(name, function)
        return task

    return declare if target is None else declare(target)


def declared(target: Any) -> dict[str, Any]:
    """What ``@saga_step`` was told about ``target``."""
    found = _declared.get(id(target))
    return dict(found[1]) if found is not None and found[0] is target else {}


class SagaStep:
    """A step of a saga; its methods hand on to the saga, so that a definition reads as a chain."""

    def __init__(self) -> None:
        self._saga: SagaDefinition | None = None

    @property
    def saga(self) -> SagaDefinition:
        """The saga that the step belongs to.

        Raises:
            SagaNotDefinedException: it belongs to none.
        """
        if self._saga is None:
            raise SagaNotDefinedException("the step belongs to no saga: make it with saga.*_step()")
        return self._saga

    def attach(self, saga: SagaDefinition) -> None:
        """Make the step part of ``saga``."""
        if self._saga is not None:
            raise AlreadyOnSagaException("the step belongs to a saga already: make a new one")
        self._saga = saga

    def validate(self) -> None:
        """Raise if the step is not complete."""
        raise NotImplementedError

    def local_step(self, step: Any = None, **options: Any) -> LocalSagaStep:
        """Check this step and add the next one to its saga."""
        self.validate()
        return self.saga.local_step(step, **options)

    def commit(self) -> Any:
        """Check this step and commit its saga, which is returned."""
        self.validate()
        return self.saga.commit()


class LocalSagaStep(SagaStep):
    """A step whose action and compensation are tasks or functions of this project."""

    def __init__(self, on_execute: Any = None, on_failure: Any = None, **options: Any) -> None:
        super().__init__()
        self.action: SagaOperation | None = None
        self.compensation: SagaOperation | None = None
        self.options: dict[str, Any] = {}
        if on_execute is not None:
            self._execute(on_execute, None, options)
        elif options:
            self.options = self._step_options(options)
        if on_failure is not None:
            self.on_failure(on_failure)

    def on_execute(
        self,
        callback: Any,
        parameters: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> LocalSagaStep:
        """Set what the step does.

        Raises:
            MultipleOnExecuteException: it was set before.
        """
        if self.action is not None:
            raise MultipleOnExecuteException("the step has an action already")
        self._execute(callback, parameters, options)
        return self

    def on_failure(
        self,
        callback: Any,
        parameters: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> LocalSagaStep:
        """Set what undoes the step.

        Raises:
            MultipleOnFailureException: it was set before.
        """
        if self.compensation is not None:
            raise MultipleOnFailureException("the step has a compensation already")
        self.compensation, _ = _operation(callback, parameters, options, frozenset())
        return self

    def _execute(
        self, callback: Any, parameters: Mapping[str, Any] | None, options: dict[str, Any]
    ) -> None:
        target = callback.callback if type(callback) is SagaOperation else callback
        merged = {**declared(target), **options}
        undo = merged.pop("compensation", None)
        self.action, mine = _operation(callback, parameters, merged, _STEP_OPTIONS)
        self.options = {**self.options, **self._step_options(mine)}
        if undo is not None:
            self.on_failure(undo)

    @staticmethod
    def _step_options(options: dict[str, Any]) -> dict[str, Any]:
        for key in options:
            if key not in _STEP_OPTIONS:
                raise DefinitionError(
                    f"unknown option {key!r} of a step without an action: expected one of "
                    f"{sorted(_STEP_OPTIONS)}"
                )
        on_lost = options.get("on_lost")
        if on_lost not in (None, "rerun", "undo"):
            raise DefinitionError(f"on_lost: expected 'rerun' or 'undo', found {on_lost!r}")
        return options

    @property
    def name(self) -> str:
        """The step's name: given, or that of its task."""
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


__all__ = ["Inputs", "LocalSagaStep", "SagaOperation", "SagaStep", "declared", "saga_step"]
