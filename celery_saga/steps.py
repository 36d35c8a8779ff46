"""The steps of a saga as its builder holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from types import CellType, MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from celery_saga import callables
from celery_saga.context import SagaContext
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
from celery_saga.layers import layers
from celery_saga.lines import users_line, warn

if TYPE_CHECKING:
    from celery_saga.definition import SagaDefinition

T = TypeVar("T")

#: Celery's own options of a message that a step may set, under Celery's names.
MESSAGE_OPTIONS = frozenset(
    {"queue", "exchange", "routing_key", "priority", "expires", "compression"}
    | {"time_limit", "soft_time_limit"}
)
_CALL_OPTIONS = frozenset(
    {"inputs", "returns", "context", "max_attempts", "retry_backoff", "retry_backoff_max"}
)
_STEP_OPTIONS = frozenset(
    {"name", "pivot", "retriable", "on_lost", "read_only", "compensate_on_failure"}
)


@dataclass(frozen=True, init=False)
class SagaOperation:
    """A task or function with the constants that it is called with.

    Args:
        callback: a Celery task, a task's name, or a plain function.
        parameters: constants, handed over as keyword arguments.
        options: how it is called: ``inputs``, ``returns``, ``context``, ``max_attempts``,
            ``retry_backoff``, ``retry_backoff_max`` and Celery's message options. For a plain
            function all others are constants too.

    Raises:
        DefinitionError: an option is unknown, or the constants have no names.
    """

    callback: Any
    parameters: Mapping[str, Any]
    options: Mapping[str, Any]

    def __init__(
        self, callback: Any, parameters: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        known, _, extra = _sorted(callback, options, frozenset())
        object.__setattr__(self, "callback", callback)
        object.__setattr__(self, "parameters", _owned({**_named(parameters), **extra}))
        object.__setattr__(self, "options", _owned(known))

    @property
    def label(self) -> str:
        """A short name for people. Reading it of a lazy task finalizes the app."""
        if isinstance(self.callback, str):
            return self.callback.rpartition(".")[2]
        name = getattr(self.callback, "name", None) or getattr(self.callback, "__name__", "")
        return str(name).rpartition(".")[2] or repr(self.callback)


def _sorted(
    target: Any, options: Mapping[str, Any], allowed: frozenset[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """``options`` as those of the call, those of the step, and constants for a plain function."""
    known = _CALL_OPTIONS | MESSAGE_OPTIONS
    extra = {key: value for key, value in options.items() if key not in known | allowed}
    if extra and not callables.is_plain(target):
        shown = repr(target) if issubclass(type(target), str) else "a task"
        raise DefinitionError(
            f"unknown option {sorted(extra)[0]!r} for {shown}: expected one of "
            f"{sorted(known | allowed)}; constants for the task go into parameters={{...}}"
        )
    call = {key: value for key, value in options.items() if key in known}
    step = {key: value for key, value in options.items() if key in allowed}
    return call, step, extra


def _named(parameters: Any) -> Mapping[str, Any]:
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping) or not all(isinstance(key, str) for key in parameters):
        raise DefinitionError(
            f"parameters: expected a mapping of names to values, found {parameters!r}"
        )
    return parameters


def _owned(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy; a SagaContext copies the dicts and lists in it."""
    return MappingProxyType(dict(SagaContext(**values)))


#: What ``@saga_step`` was told, by the identity of the task or function. Nothing is written on the
#: task: a shared task has one object for every app, and touching a lazy one finalizes its app.
_declared: dict[int, tuple[SagaOperation, dict[str, Any]]] = {}


def saga_step(target: Any = None, *, compensation: Any = None, **options: Any) -> Any:
    """Keep a step's pairing with its task, so that many sagas use it.

    Put it above ``@app.task`` or ``@shared_task``, or below, on the function itself; other
    decorators may stand between if they use ``functools.wraps``. It returns what it gets unchanged
    and does not touch it. It makes a plain function known to the workers that import it. What it
    says about how a task is called holds as well where the task is another step's compensation.

    Args:
        compensation: the task or function that undoes it.
        options: as for :meth:`Saga.local_step`.
    """

    def declare(task: T) -> T:
        call, step, constants = _sorted(task, options, _STEP_OPTIONS)
        operation = SagaOperation(task, constants, **call)
        _declared[id(task)] = operation, {"compensation": compensation, **step}
        for one in filter(callables.is_plain, (task, compensation)):
            if (name := callables.wire_name(one, None)) is not None:
                callables.register(name, one)
        return task

    return declare if target is None else declare(target)


def declared(target: Any) -> tuple[SagaOperation, dict[str, Any]]:
    """What ``@saga_step`` was told about ``target``: how it is called, and about the step.

    Told of a task and of its function, the word on the task goes before the other.
    """
    constants: dict[str, Any] = {}
    options: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for layer in reversed(layers(target)):
        told, step = _declared.get(id(layer), (None, {}))
        if told is not None and told.callback is layer:
            constants |= told.parameters
            options |= told.options
            about |= {key: value for key, value in step.items() if value is not None}
    return SagaOperation(target, constants, **options), about


def _warn_of_hidden(target: Any) -> None:
    """Warn of a word that cannot be heard, for the decorator over it tells of no function."""
    known = layers(target)
    for layer in filter(callables.is_plain, known):
        for cell in layer.__closure__ or ():
            held: Any = cell.cell_contents if cell != CellType() else None
            hidden = callables.is_plain(held) and not any(held is each for each in known)
            if hidden and declared(held)[1]:
                warn(
                    f"@saga_step above {held.__qualname__}() is not heard, for the decorator "
                    f"{layer.__qualname__}() over it lacks functools.wraps: give it that, or put "
                    f"@saga_step above @app.task",
                    users_line(),
                )


def declared_targets() -> Iterator[Any]:
    """All that ``@saga_step`` was put on."""
    for told, _ in list(_declared.values()):
        yield told.callback


def _operation(
    callback: Any,
    parameters: Mapping[str, Any] | None,
    options: dict[str, Any],
    allowed: frozenset[str] = frozenset(),
) -> tuple[SagaOperation, dict[str, Any]]:
    """The operation, and what is said about the step; of two words on one thing the later holds."""
    base = callback if issubclass(type(callback), SagaOperation) else SagaOperation(callback)
    told, about = declared(base.callback)
    if not about:
        _warn_of_hidden(base.callback)
    call, step, extra = _sorted(base.callback, options, allowed)
    constants = {**told.parameters, **base.parameters, **_named(parameters), **extra}
    made = SagaOperation(base.callback, constants, **{**told.options, **base.options, **call})
    return made, {**about, **step}


def _as_told(
    operation: SagaOperation, found: Callable[[Any], Any]
) -> tuple[SagaOperation, dict[str, Any]]:
    """An operation with what was told about the task that it names, and what was of the step."""
    target = found(operation.callback)
    if target is None:
        return operation, {}
    told, about = declared(target)
    constants = {**told.parameters, **operation.parameters}
    options = {**told.options, **operation.options}
    return SagaOperation(operation.callback, constants, **options), about


class SagaStep(ABC):
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

    def _check_open(self) -> None:
        if self._saga is not None and self._saga.committed:
            raise AlreadyCommittedException(
                f"saga {self._saga.name!r} is committed: its steps cannot change"
            )

    @abstractmethod
    def validate(self) -> None:
        """Raise if the step is not complete."""

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
        self.options: Mapping[str, Any] = MappingProxyType({})
        #: Whether it takes the compensation that its task brings along.
        self._paired = True
        #: Where the user's code made it.
        self.line = users_line()
        if on_execute is not None:
            self._execute(on_execute, None, options)
        elif options:
            self._set_options(options)
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
            AlreadyCommittedException: the saga is committed.
        """
        self._check_open()
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
            AlreadyCommittedException: the saga is committed.
        """
        self._check_open()
        if self.compensation is not None:
            raise MultipleOnFailureException("the step has a compensation already")
        self.compensation, _ = _operation(callback, parameters, options)
        return self

    def _execute(
        self, callback: Any, parameters: Mapping[str, Any] | None, options: dict[str, Any]
    ) -> None:
        allowed = _STEP_OPTIONS | {"compensation"}
        action, about = _operation(callback, parameters, options, allowed)
        self._paired = "compensation" not in options or options["compensation"] is not None
        undo = about.pop("compensation", None)
        self._set_options(about)
        self.action = action
        if undo is not None:
            self.on_failure(undo)

    def _set_options(self, options: Mapping[str, Any]) -> None:
        for key in options:
            if key not in _STEP_OPTIONS:
                raise DefinitionError(
                    f"unknown option {key!r} of a step without an action: expected one of "
                    f"{sorted(_STEP_OPTIONS)}"
                )
        on_lost = options.get("on_lost")
        if on_lost not in (None, "rerun", "undo"):
            raise DefinitionError(f"on_lost: expected 'rerun' or 'undo', found {on_lost!r}")
        for key in ("pivot", "retriable", "read_only"):
            if options.get(key) not in (None, True, False):
                raise DefinitionError(f"{key}: expected True or False, found {options[key]!r}")
        self.options = _owned({**self.options, **options})

    def completed(self, found: Callable[[Any], Any]) -> LocalSagaStep:
        """The step with what ``@saga_step`` was told about tasks which it only names.

        Args:
            found: what it was put on for a task that a step names; ``None``: nothing was.

        Raises:
            DefinitionError: what it was told is not what it should be.
        """
        assert self.action is not None
        made = copy(self)
        made.action, about = _as_told(self.action, found)
        undo = about.pop("compensation", None)
        undo = undo if self._paired else None
        if about:
            made._set_options({**about, **self.options})
        if self.compensation is not None or undo is not None:
            given = self.compensation or _operation(undo, None, {})[0]
            made.compensation, _ = _as_told(given, found)
        return made

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


def names_of(steps: Sequence[LocalSagaStep], labels: Sequence[str]) -> list[str]:
    """One name a step; a task that is used twice gets a number from its second use on."""
    given = {step.options["name"] for step in steps if step.options.get("name")}
    names: list[str] = []
    for number, (step, label) in enumerate(zip(steps, labels, strict=True), start=1):
        # A lambda has no name to speak of, and the name is part of idempotency keys.
        label = f"step_{number}" if label == "<lambda>" else label
        base = name = label.replace("/", "_")
        count = 1
        while name in names or (name in given and not step.options.get("name")):
            count += 1
            name = f"{base}_{count}"
        names.append(name)
    return names
